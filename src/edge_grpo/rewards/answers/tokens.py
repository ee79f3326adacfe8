r"""Expressions cut into tokens: numbers, names, commands and signs, and the nodes of the trees built from them."""

import re
from fractions import Fraction
from typing import NamedTuple

__all__ = ["FUNCTIONS", "SEVERAL", "Node", "Token", "UnreadableError", "number", "tokens_of"]

MAX_EXPONENT = 9999  # of a number such as 1e-19

PLAIN_FUNCTIONS = (
    "arcsinh|arccosh|arctanh|arcsin|arccos|arctan|arccot|arctg|sinh|cosh|tanh|coth|sin|cos|tan|cot|sec|csc|tg|ctg|asin|"
    "acos|atan|exp|ln|log|lg"
)
SEVERAL = ("max", "min", "gcd", "lcm")
FUNCTIONS = frozenset(PLAIN_FUNCTIONS.split("|")) | {"sqrt", *SEVERAL}
REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\(?:overline|bar) ?\{? ?(\d+) ?\}?|"
    r"\\dot ?\{? ?(\d) ?\}? ?(\d*) ?\\dot ?\{? ?(\d) ?\}?(?!\d)|\\dot ?\{? ?(\d) ?\}?(?!\d)|\((\d+)\))"
)
DOTTED = re.compile(r"(\d*)\.(\d*?)(\d{1,3})\3{2,} ?\\dots ?")
DOTTED_TWICE = re.compile(r"(\d*)\.()(\d{1,3})\3 ?\\dots ?")
SCIENTIFIC = re.compile(r"(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,5})(?![\w.])")
BASED = re.compile(r"([0-9A-Z]+) ?_ ?\{ ?(\d{1,2}) ?\}")
DECIMAL = re.compile(r"\d+\.\d*|\.\d+|\d+")
WORD = re.compile(rf'(?:{PLAIN_FUNCTIONS})(?=[a-z]?(?![A-Za-z]))|sqrt|pi(?![A-Za-z])|[A-Za-z]+|"[A-Za-z]"|\\[A-Za-z]+')
OPERATOR = re.compile(r"[-+*/^_()\[\]{}!|,']")


class UnreadableError(ValueError):
    """The text is not an expression of the kind read here, or one that must not be computed."""


class Node(NamedTuple):
    """One operation with its operands; a ``number`` or ``name`` has a leaf instead.

    ``digits`` is how many significant digits a number was written with if it has a decimal point, else 0.
    """

    op: str
    args: "tuple[Node, ...]" = ()
    leaf: Fraction | str = ""
    digits: int = 0


class Token(NamedTuple):
    """A piece of text, with its node if it is a number."""

    kind: str
    text: str
    node: Node | None = None


def number(value: Fraction | int, digits: int = 0) -> Node:
    """A leaf."""
    return Node("number", leaf=Fraction(value), digits=digits)


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, spaces dropped.

    Raises:
        UnreadableError: a piece of the text is none.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        found, position = _token(text, position)
        tokens += found
    return tokens


def _token(text: str, position: int) -> tuple[list[Token], int]:
    if text[position].isdigit() or text[position] == ".":
        return _number_token(text, position)
    if match := WORD.match(text, position):
        word = match[0].strip('"')
        if word.startswith("\\") or len(word) == 1 or word in FUNCTIONS or word == "pi":
            return [Token("name", word.lstrip("\\") if word[1:] else word)], match.end()
        if (match_based := BASED.match(text, position)) and any(map(str.isdigit, match_based[1])):
            return [Token("number", match_based[0], _based(match_based))], match_based.end()
        if len(word) > 3:
            raise UnreadableError(f"the word {word!r}")
        return [Token("name", letter) for letter in word], match.end()
    if match := OPERATOR.match(text, position):
        return [Token("operator", match[0])], match.end()
    raise UnreadableError(f"unexpected {text[position]!r}")


def _number_token(text: str, position: int) -> tuple[list[Token], int]:
    if match := REPEATING.match(text, position) or DOTTED.match(text, position) or DOTTED_TWICE.match(text, position):
        whole, fixed, period = match[1], match[2], "".join(filter(None, match.groups()[2:]))
        value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(
            int(period), (10 ** len(period) - 1) * 10 ** len(fixed)
        )
        return [Token("number", match[0], number(value))], match.end()
    if match := SCIENTIFIC.match(text, position):
        if abs(int(match[2])) > MAX_EXPONENT:
            raise UnreadableError("an exponent of more than 4 digits")
        value = Fraction(match[1]) * Fraction(10) ** int(match[2])
        return [Token("number", match[0], number(value, _significant(match[1])))], match.end()
    if match := BASED.match(text, position):
        return [Token("number", match[0], _based(match))], match.end()
    if match := DECIMAL.match(text, position):
        digits = _significant(match[0]) if "." in match[0] else 0
        return [Token("number", match[0], number(Fraction(match[0]), digits))], match.end()
    raise UnreadableError("a lone decimal point")


def _significant(text: str) -> int:
    return len(text.replace(".", "").lstrip("0"))


def _based(match: re.Match[str]) -> Node:
    """A numeral in a base: equal only to a numeral in the same base, since the base is what was asked for."""
    try:
        return Node("based", (number(int(match[1], int(match[2]))),), leaf=match[2])
    except ValueError:
        raise UnreadableError(f"{match[1]!r} has no meaning in base {match[2]}") from None
