r"""Expressions with units, currencies and scale words: ``5\text{ million}``, ``\$3.50``, ``3 hours 20 minutes``."""

import re
from collections.abc import Iterable
from fractions import Fraction

from edge_grpo.rewards.answers import formula
from edge_grpo.rewards.answers.kinds import Quantity
from edge_grpo.rewards.answers.tokens import FUNCTIONS, Node, UnreadableError, number
from edge_grpo.rewards.answers.units import BEFORE, JOINING, is_known, read_unit, scale_of

__all__ = ["COMMA_NUMBER", "quantities", "sums_of_units"]

COMMA_NUMBER = re.compile(r"[+-]?(?:\\\$)?\d{1,3}(?:,\d{3})+(?![\d,])")
NAMES_POINTS = re.compile(r"[A-Z]{3,}")  # ABC is not a product: its order counts
UNIT_WORDS = re.compile(r'(?<=[\w)}\]!.%$])\s*(\\?%|\^ ?\\circ|"[^"]*"|(?<=[\d)}\]!.%$])\s*[A-Za-zµ一-鿿\\])')


def quantities(text: str) -> Iterable[Quantity]:
    """The text as an expression, with or without a unit; both if letters could be variables or a unit."""
    text = (
        re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
        if COMMA_NUMBER.search(text) and not re.search(r"[(\[]", text)
        else text
    )
    try:
        if not text.startswith("\\$") and not NAMES_POINTS.fullmatch(text):
            yield Quantity(formula.parse(text))
    except UnreadableError:
        pass
    if match := re.fullmatch(r"([+-]?)\s*(\\\$|€|£|¥|₹|\x22?Rs\.?\x22?|US\s*\\\$|USD|\x22USD\x22)\s*(.+)", text):
        currency = read_unit("$" if "$" in match[2] or "USD" in match[2] else match[2].strip('".'))
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
        scale, rest = (
            scale_of(tail.replace('"', " ").strip())
            if '"' in tail or " " in text[match.start() : match.end()]
            else (1, tail)
        )
        unit = read_unit(rest) if rest.strip() else None
        if rest.strip() and (unit is None or not _is_unit(tail, text[match.start() : match.end()])):
            continue
        try:
            tree = formula.parse(head)
        except UnreadableError:
            continue
        if scale > 1:
            tree = Node("*", (tree, number(scale)))
        yield Quantity(tree, unit)


def _is_unit(tail: str, start: str) -> bool:
    """Whether letters outside quotes are words rather than variables: known units, or one noun after a space."""
    outside = re.sub(r'"[^"]*"|\\[a-z]+', " ", tail)
    words = [word for word in re.findall(r"[A-Za-zµ]+", outside) if word not in JOINING and word not in BEFORE]
    if any(word in FUNCTIONS or word == "pi" for word in words):
        return False
    spaced = start[:1] == " " or tail[0] in '"%^'
    if all(is_known(word) for word in words):
        return spaced or all(len(word) > 1 for word in words[:1])
    return spaced and all(is_known(word) or len(word) > 3 for word in words)


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
