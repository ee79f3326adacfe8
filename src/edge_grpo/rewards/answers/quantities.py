r"""Expressions with units, currencies and scale words: ``5\text{ million}``, ``\$3.50``, ``3 hours 20 minutes``."""

import re
from collections.abc import Iterable
from fractions import Fraction

from edge_grpo.rewards.answers import formula
from edge_grpo.rewards.answers.formula import FUNCTIONS, Node, UnreadableError, number
from edge_grpo.rewards.answers.kinds import Quantity
from edge_grpo.rewards.answers.units import Unit, read_unit, scale_of

__all__ = ["COMMA_NUMBER", "quantities", "sums_of_units"]

COMMA_NUMBER = re.compile(r"[+-]?(?:\\\$)?\d{1,3}(?:,\d{3})+(?![\d,])")
UNIT_WORDS = re.compile(r'(?<=[\w)}\]!.%$])\s*(\\?%|\^ ?\\circ|"[^"]*"|(?<=[\d)}\]!.%$])\s*[A-Za-zµ\\])')


def quantities(text: str) -> Iterable[Quantity]:
    """The text as an expression, with or without a unit; both if letters could be variables or a unit."""
    text = (
        re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
        if COMMA_NUMBER.search(text) and not re.search(r"[(\[]", text)
        else text
    )
    try:
        if not text.startswith("\\$"):
            yield Quantity(formula.parse(text))
    except UnreadableError:
        pass
    if match := re.fullmatch(r"([+-]?)\s*(\\\$|€|£|¥)\s*(.+)", text):
        currency = read_unit(match[2].lstrip("\\"))
        for one in quantities(match[3]):
            if one.unit is None or one.unit == currency:
                yield Quantity(Node("neg", (one.tree,)) if match[1] == "-" else one.tree, currency)
        return
    yield from _with_unit(text)


def _with_unit(text: str) -> Iterable[Quantity]:
    for match in UNIT_WORDS.finditer(text):
        head, tail = text[: match.start()].strip(), text[match.start() :].strip()
        if not _balanced_quotes(head) or (tail[0] == "\\" and not tail.startswith(("\\%", "\\$", "\\mu"))):
            continue
        exponent, rest = (
            scale_of(tail.replace('"', " ").strip())
            if '"' in tail or " " in text[match.start() : match.end()]
            else (0, tail)
        )
        unit = read_unit(rest) if rest.strip() else None
        if rest.strip() and (unit is None or not _is_unit(tail, unit, text[match.start() : match.end()])):
            continue
        try:
            tree = formula.parse(head)
        except UnreadableError:
            continue
        if exponent:
            tree = Node("*", (tree, number(Fraction(10) ** exponent)))
        yield Quantity(tree, unit)


def _is_unit(tail: str, unit: Unit, start: str) -> bool:
    """Whether unquoted letters are words rather than variables: a known unit, or a noun after a space."""
    if tail[0] in '"%^\\':
        return True
    word = re.match(r"[A-Za-zµ]+", tail)
    if word is None or word[0] in FUNCTIONS or word[0] == "pi":
        return False
    spaced = start[:1] == " "
    if unit.known:
        return spaced or len(word[0]) > 1
    return spaced and len(word[0]) > 3


def _balanced_quotes(text: str) -> bool:
    return text.count('"') % 2 == 0 and bool(text)


def sums_of_units(text: str) -> Iterable[Quantity]:
    """``3 hours 20 minutes`` in the smaller unit."""
    parts = re.findall(r'\s*(\d+(?:\.\d+)?)\s*"?\s*([A-Za-z]+)\s*"?(?:\s*(?:,|and|"and"))?', text)
    if len(parts) < 2 or re.sub(r'[\s",]|and', "", text) != re.sub(r"and", "", "".join(a + b for a, b in parts)):
        return
    units = [read_unit(word) for _, word in parts]
    if any(unit is None or not unit.known for unit in units) or len({unit.powers for unit in units if unit}) != 1:
        return
    total = sum(
        (Fraction(value) * unit.factor for (value, _), unit in zip(parts, units, strict=True) if unit), Fraction(0)
    )
    last = units[-1]
    if last is not None:
        yield Quantity(number(total / last.factor), last)
