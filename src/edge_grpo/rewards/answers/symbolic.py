r"""Sums, products, integrals and limits, evaluated by math-verify; everything else is compared by `reading`.

Importing this module imports sympy and math-verify (about a second); only `equality` does so, inside functions. The
code here may take arbitrarily long on hostile input: run it in a `GraderPool`. Model text does not reach Python's
``eval``, and numbers too large to be an answer are rejected before they are computed.
"""

import logging
import math
import re
import warnings
from functools import lru_cache

import math_verify.parser
import sympy
from math_verify import LatexExtractionConfig, parse, verify

from edge_grpo.rewards.answers.canonical import spelled
from edge_grpo.rewards.answers.reading import read

__all__ = ["needs_analysis", "too_large", "verified"]

MAX_BITS = 50_000  # of any integer that is computed
MAX_DEPTH = 60
ANALYSIS = re.compile(r"\\(?:sum|prod|i*nt|lim)(?![a-zA-Z])")
COMMAND = re.compile(r"\\[a-zA-Z]+")
_READABLE = (
    r"\sum \prod \int \iint \iiint \lim \to \infty \frac \sqrt \pi \sin \cos \tan \ln \log \exp \binom \left "
    r"\right \cdot \times \limits \, \alpha \theta \arctan \arcsin \arccos \dfrac \tfrac \le \ge"
)
READABLE = frozenset(_READABLE.split())
LATEX = (LatexExtractionConfig(boxed_match_priority=0),)

# math-verify's own time limits use SIGALRM and replace a caller's alarm; instead, the worker is killed from outside.
math_verify.parser.TIMEOUT_WARNING_SHOWN = True
logging.getLogger("math_verify").setLevel(logging.ERROR)


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
    r"""Whether math-verify finds two answers equal, at least one of which has a sum, product, integral or limit.

    math-verify reads what it can of a text and ignores the rest. So the other answer must be one that `read` accounts
    for, and the texts may have no commands, words or brackets beyond those known to be read.

    Args:
        answer: the content of a box.
        gold: a reference answer.

    Returns:
        math-verify's verdict; False if either cannot be read, or is too large to compute.

    Source:
        math-verify, https://github.com/huggingface/Math-Verify, with its default precision of 6 decimals.

    Example:
        >>> verified(r"\int_0^1 2x\,dx", "1"), verified(r"\sum_{k=1}^{4} k", "11")
        (True, False)
    """
    if not (_accounted(answer) and _accounted(gold)):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from sympy, about LaTeX input
            references, candidates = _read_gold(gold), _read(answer)
            if any(too_large(value) for value in (*references, *candidates)):
                return False
            return bool(verify(list(references), candidates, timeout_seconds=None))
    except RecursionError:
        return False


def needs_analysis(text: str) -> bool:
    """Whether a text has a sum, product, integral or limit."""
    return ANALYSIS.search(text) is not None


def _accounted(text: str) -> bool:
    if not needs_analysis(text):
        return bool(read(spelled(text)))
    plain = text.strip().strip("$")
    balanced = all(plain.count(one) == plain.count(two) for one, two in ("()", "{}", "[]"))
    return balanced and set(COMMAND.findall(plain)) <= READABLE and _nesting(plain) <= MAX_DEPTH


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[object, ...]:
    return tuple(_read(gold))


def _read(text: str) -> list[object]:
    latex = text if "$" in text.replace(r"\$", "") else f"${text}$"
    return list(parse(latex, LATEX, fallback_mode="no_fallback", parsing_timeout=None))


def _nesting(text: str) -> int:
    """Deepest nesting of brackets, closed or not; the LaTeX parser takes minutes on thousands of levels."""
    depth = deepest = 0
    for character in text:
        depth = max(depth + (character in "([{") - (character in ")]}"), 0)
        deepest = max(deepest, depth)
    return deepest
