r"""Symbolic equality of two answers: our own small parser for plain expressions, and math-verify for LaTeX.

Importing this module imports sympy and math-verify (about a second); only `equality` does so, inside functions. The
code here may take arbitrarily long on hostile input: run it in a `GraderPool`. Neither parser passes model text to
Python's ``eval``, and numbers too large to be an answer are rejected before they are computed.
"""

import logging
import math
import re
import warnings
from functools import lru_cache

import math_verify.parser
import sympy
from math_verify import LatexExtractionConfig, parse, verify

from edge_grpo.rewards.answers.canonical import split_elements

__all__ = ["UnreadableError", "parse_plain", "same_expressions", "too_large", "verified"]

MAX_BITS = 50_000  # of any integer that is computed
MAX_FACTORIAL = 2000
MAX_DEPTH = 60
MAX_PLAIN = 600  # characters of a plain expression that is parsed
MAX_EXPAND = 12  # the largest exponent that is expanded
TOKEN = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)|(\\?[a-z]+)|(\*\*|[-+*/^()\[\]{}!])")
NAMES = {"pi": sympy.pi, r"\pi": sympy.pi, r"\infty": sympy.oo, "inf": sympy.oo}
GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi|omega)"
)
FUNCTIONS = {
    "sqrt": sympy.sqrt,
    r"\sqrt": sympy.sqrt,
    **{f"{mark}{name}": getattr(sympy, name) for name in ("sin", "cos", "tan", "exp") for mark in ("", "\\")},
}
CLOSING = {"(": ")", "[": "]", "{": "}"}
LATEX = (LatexExtractionConfig(boxed_match_priority=0),)
NUMBER = r"(?:^|[\s=])[$€£]?(-?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+)(?![0-9])(?!\.[0-9])(?!\s*[-+*/^!(]+\s*[0-9(])"
LAST_NUMBER = re.compile(NUMBER)
ANSWER_NUMBER = re.compile(rf"(?i:answer)(?:.{{0,100}}=\s*|.{{0,50}}?){NUMBER}(?!\s*=)")

# math-verify's own time limits use SIGALRM and replace a caller's alarm; instead, the worker is killed from outside.
math_verify.parser.TIMEOUT_WARNING_SHOWN = True
logging.getLogger("math_verify").setLevel(logging.ERROR)


class UnreadableError(ValueError):
    """The text is not a plain expression, or is one that must not be computed."""


def same_expressions(left: str, right: str) -> bool:
    r"""Whether two canonical texts are equal as plain expressions, element by element and in order.

    Here an integer equals only an integer: ``1+1`` against ``2`` is left to math-verify.

    Args:
        left: canonical spelling of the answer.
        right: canonical spelling of the reference.

    Returns:
        True if every element is equal; False also if a text cannot be parsed.

    Source:
        The rules of PRM800K's grader (Lightman et al. 2023, arXiv:2305.20050), without its use of ``eval``.

    Example:
        >>> same_expressions("(1,x+2)", "(1,2+x)"), same_expressions("(1,2)", "(2,1)"), same_expressions("x**2", "x^2")
        (True, False, True)
    """
    left_open, lefts, left_close = split_elements(left)
    right_open, rights, right_close = split_elements(right)
    if len(lefts) != len(rights) or len(lefts) > MAX_PLAIN:
        return False
    # Set braces do not change a list; a single element may be bracketed or not.
    brackets = [(o + c).replace(r"\{\}", "") for o, c in ((left_open, left_close), (right_open, right_close))]
    if len(lefts) > 1 and brackets[0] != brackets[1]:
        return False
    return all(_same_element(a, b) for a, b in zip(lefts, rights, strict=True))


def _same_element(left: str, right: str) -> bool:
    if left == right:
        return bool(left)
    if max(len(left), len(right)) > MAX_PLAIN or left.isdecimal() != right.isdecimal():
        return False
    try:
        difference = parse_plain(left) - parse_plain(right)
        if difference == 0:
            return True
        return _degree(difference) <= MAX_EXPAND and bool(sympy.expand(difference) == 0)
    except (UnreadableError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError):
        return False


def _degree(expression: sympy.Expr) -> int:
    exponents = [int(abs(power.exp)) for power in expression.atoms(sympy.Pow) if power.exp.is_Integer]
    return max(exponents, default=0)


def parse_plain(text: str) -> sympy.Expr:
    r"""Parse a plain expression: ``+ - * / ^ ** !``, brackets, decimals, ``\frac \sqrt``, common functions, names.

    Products may be implicit; a mixed number like ``1\frac{1}{2}`` is a sum; a name of several letters is one symbol.

    Raises:
        UnreadableError: the text is anything else, nested too deeply, or has a number too large to compute.

    Source:
        Recursive descent; no part of the text is executed.

    Example:
        >>> parse_plain("2(x+1)**2/3")
        2*(x + 1)**2/3
        >>> parse_plain("9**9**9**9")
        Traceback (most recent call last):
        ...
        edge_grpo.rewards.answers.symbolic.UnreadableError: a number of more than 50000 bits
    """
    return _Reader(text).read()


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.next = 0
        self.depth = 0
        position = 0
        while position < len(text):
            if text[position] == " ":
                position += 1
                continue
            match = TOKEN.match(text, position)
            if match is None:
                raise UnreadableError(f"unexpected {text[position]!r}")
            kind = ("", "number", "name", "operator")[match.lastindex or 0]
            self.tokens.append((kind, match[match.lastindex or 0]))
            position = match.end()

    def read(self) -> sympy.Expr:
        value = self.sum()
        if self.next < len(self.tokens):
            raise UnreadableError(f"unexpected {self.peek()[1]!r}")
        return value

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "")

    def take(self, *operators: str) -> str:
        kind, text = self.peek()
        if kind == "operator" and text in operators:
            self.next += 1
            return text
        return ""

    def sum(self) -> sympy.Expr:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        self.depth -= 1
        return value

    def product(self) -> sympy.Expr:
        sign = self.take("+", "-")
        value = self.power()
        while True:
            before = self.tokens[self.next - 1]
            if operator := self.take("*", "/"):
                inner = self.take("+", "-")
                factor = -self.power() if inner == "-" else self.power()
                value = value * factor if operator == "*" else value / factor
            elif self.peek() == ("name", r"\frac") and before[0] == "number" and value.is_Integer:
                value = value + self.power()
            elif self.peek()[0] in ("number", "name") or self.peek()[1] in CLOSING:
                value = value * self.power()
            else:
                return -value if sign == "-" else value

    def power(self) -> sympy.Expr:
        base = self.atom()
        while self.take("!"):
            base = _factorial(base)
        if self.take("^", "**"):
            negative = self.take("+", "-") == "-"
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise UnreadableError("nested too deeply")
            exponent = self.power()
            self.depth -= 1
            return _power(base, -exponent if negative else exponent)
        return base

    def atom(self) -> sympy.Expr:
        kind, text = self.peek()
        self.next += 1
        if kind == "number":
            return sympy.Rational(text)
        if kind == "operator" and text in CLOSING:
            return self.group(text)
        if kind != "name":
            raise UnreadableError(f"unexpected {text!r}")
        if text == r"\frac":
            numerator = self.braced()
            return numerator / self.braced()
        if text == r"\sqrt" and self.take("["):
            index = self.group("[")
            return _power(self.braced(), 1 / index)
        if text in FUNCTIONS:
            if not text.startswith("\\") and self.peek()[1] != "(":
                raise UnreadableError(f"{text} without brackets")
            return FUNCTIONS[text](self.atom())
        if text.startswith("\\") and text not in NAMES and not GREEK.fullmatch(text):
            raise UnreadableError(f"unknown command {text}")
        return NAMES.get(text, sympy.Symbol(text))

    def group(self, opening: str) -> sympy.Expr:
        value = self.sum()
        if not self.take(CLOSING[opening]):
            raise UnreadableError(f"{opening!r} is not closed")
        return value

    def braced(self) -> sympy.Expr:
        if not self.take("{"):
            raise UnreadableError("braces expected")
        return self.group("{")


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if base.is_number and exponent.is_number:
        _check_bits(_power_bits(_bits(base), exponent))
    return base**exponent


def _factorial(value: sympy.Expr) -> sympy.Expr:
    if value.is_number and not (value.is_Integer and 0 <= value <= MAX_FACTORIAL):
        raise UnreadableError("factorial of a large or invalid number")
    return sympy.factorial(value)


def _check_bits(bits: float) -> None:
    if bits > MAX_BITS:
        raise UnreadableError(f"a number of more than {MAX_BITS} bits")


def _power_bits(base_bits: float, exponent: sympy.Expr) -> float:
    exponent_bits = _bits(exponent)
    if exponent_bits > 64 and base_bits > 0:
        return math.inf
    return base_bits * float(2.0**exponent_bits)


def _bits(value: sympy.Basic) -> float:
    """An upper estimate of log2 of the numerator and denominator that evaluating ``value`` would compute."""
    if isinstance(value, sympy.Rational):
        size = max(abs(value.p), value.q)
        return float(size.bit_length()) if size > 1 else 0.0
    if isinstance(value, sympy.Pow):
        return max(_power_bits(max(_bits(value.base), 1.0), value.exp), 1.0)
    if isinstance(value, sympy.factorial):
        bits = _bits(value.args[0])
        return math.inf if bits > 12 else 2.0**bits * max(bits, 1.0)
    if isinstance(value, sympy.binomial):
        top = _bits(value.args[0])
        return math.inf if top > 16 else 2.0**top
    if isinstance(value, (sympy.Add, sympy.Mul)):
        return sum(_bits(argument) for argument in value.args)
    return max((_bits(argument) for argument in value.args), default=1.0)


def too_large(expression: object) -> bool:
    r"""Whether evaluating a parsed answer would compute a number of more than `MAX_BITS` bits.

    Example:
        >>> x = sympy.Symbol("x")
        >>> too_large(sympy.Pow(9, sympy.Pow(9, 9, evaluate=False), evaluate=False)), too_large(x**1000 + 2**100)
        (True, False)
    """
    if not isinstance(expression, (sympy.Basic, sympy.MatrixBase)):
        return False
    stack: list[sympy.Basic] = list(expression) if isinstance(expression, sympy.MatrixBase) else [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, (sympy.Pow, sympy.factorial, sympy.binomial)) and _bits(node) > MAX_BITS and _numeric(node):
            return True
        stack.extend(argument for argument in node.args if isinstance(argument, sympy.Basic))
    return False


def _numeric(node: sympy.Basic) -> bool:
    return not node.free_symbols


def verified(answer: str, gold: str) -> bool:
    r"""Whether math-verify finds two answers equal, both read as LaTeX.

    Args:
        answer: the content of a box.
        gold: a reference answer.

    Returns:
        math-verify's verdict; False if either cannot be parsed or is too large to compute.

    Source:
        math-verify, https://github.com/huggingface/Math-Verify, with its default precision of 6 decimals.

    Example:
        >>> verified(r"\{1,2\}", r"\{2,1\}"), verified("3.14", r"\pi")
        (True, False)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from sympy, about LaTeX input
            references, candidates = _read_gold(gold), _read(answer)
            if any(too_large(value) for value in (*references, *candidates)):
                return False
            return bool(verify(list(references), candidates, timeout_seconds=None))
    except RecursionError:
        return False


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[object, ...]:
    return tuple(_read(gold))


def _read(text: str) -> list[object]:
    latex = text if "$" in text.replace(r"\$", "") else f"${text}$"
    if _nesting(latex) > MAX_DEPTH:
        return []
    if "answer" in latex.lower() and (numbers := ANSWER_NUMBER.findall(latex)):
        return _number(numbers[-1])
    if values := list(parse(latex, LATEX, fallback_mode="no_fallback", parsing_timeout=None)):
        return values
    numbers = LAST_NUMBER.findall(latex)  # not valid LaTeX, but it may contain a number: "\\approx 3.14"
    return _number(numbers[-1]) if numbers else []


def _nesting(text: str) -> int:
    """Deepest nesting of brackets, closed or not; the LaTeX parser takes minutes on thousands of levels."""
    depth = deepest = 0
    for character in text:
        depth = max(depth + (character in "([{") - (character in ")]}"), 0)
        deepest = max(deepest, depth)
    return deepest


def _number(text: str) -> list[object]:
    """Parse without ``sympy.Number``, which passes text to ``eval``."""
    if len(text) > MAX_PLAIN:
        return []
    text = text.replace(",", "")
    return [sympy.Float(text) if "." in text else sympy.Integer(int(text))]
