"""What an answer says: its `canonical.spelled` text read into quantities, lists, intervals, equations or words.

An answer may have several readings ("12,345" is a number or a list); each accounts for the whole text. A text that no
reading accounts for has none, and then decides nothing.
"""

import re
from collections.abc import Iterable, Sequence

from edge_grpo.rewards.answers import formula
from edge_grpo.rewards.answers.kinds import (
    Choice,
    Items,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Reading,
    Readings,
    Region,
    Words,
    region_of,
)
from edge_grpo.rewards.answers.quantities import COMMA_NUMBER, quantities, sums_of_units
from edge_grpo.rewards.answers.regions import EVERYTHING, complement
from edge_grpo.rewards.answers.relations import NAME, relations
from edge_grpo.rewards.answers.split import outer_brackets, pieces_of, split_top
from edge_grpo.rewards.answers.tokens import Node, UnreadableError, number
from edge_grpo.rewards.answers.words import bare, choice_of, meaning_of, number_word, words_of

__all__ = ["read"]

MAX_READ = 2000  # characters
MAX_DEPTH = 8
MAX_ITEMS = 500


ANSWER_IS = re.compile(
    r'"?\s*(?:(?:so|thus|hence|therefore)\s*,?\s*)?(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|solution|result|value)\s*(?:is|:|=)\s*:?\s*"?\s*(.+)',
    re.I | re.S,
)
LEADING = re.compile(
    r"(?:=|[,;]|\\approx(?![a-zA-Z])|\\therefore(?![a-zA-Z])|\\implies(?![a-zA-Z])|\\Rightarrow(?![a-zA-Z])|:)\s*"
)
TRAILING = re.compile(r"(?:\\(?:Long)?[Rr]ightarrow|\\implies|[\s,;:])+$")
LABEL_AFTER = re.compile(
    r'(.*[\w)}\]"])\s*(?:"\s*\(\s*([A-J])\s*\)\s*"|\\(?:[Ll]ongr|[Rr]|Longr)ightarrow\s*"?\s*\(?([A-J])\)?\s*"?)'
)
SETS = {r"\mathbb{R}": (EVERYTHING,)}
MATRIX = re.compile(r"\\begin\s*\{(pmatrix|vmatrix|Vmatrix|Bmatrix|cases)\}(.*)\\end\s*\{\1\}", re.S)
TIME = re.compile(
    r'\s*(\d{1,2}:\d\d(?::\d\d)?|\d{1,2}(?=\s*"?\s*[ap]\.?\s*m\b))\s*(?:"\s*)?([ap]\.?\s*m\.?)?(?:\s*")?\s*',
    re.IGNORECASE,
)


def read(text: str, depth: int = 0) -> Readings:
    """All readings of a spelled text, the likeliest first; none if it cannot be read as a whole."""
    text = _trimmed(text)
    if not text or len(text) > MAX_READ or depth > MAX_DEPTH:
        return ()
    if match := ANSWER_IS.fullmatch(text):
        return read(match[1], depth + 1)
    found: list[Reading] = []
    for reader in (
        _labelled,
        _words,
        _pair,
        _list,
        _relation,
        _ratio,
        _region,
        _brackets,
        _matrix,
        _quantity,
    ):
        try:
            found += reader(text, depth)
        except (UnreadableError, ZeroDivisionError):
            continue
    return tuple(found)


def _trimmed(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = LEADING.sub("", text.strip(), count=1) if LEADING.match(text.strip()) else text.strip()
        text = TRAILING.sub("", text)
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        inner = outer_brackets(text, "{", "}")
        if inner is not None and not text.startswith("\\"):
            text = inner
        text = text.removesuffix('.""').removesuffix('""').removeprefix('""')
    return text


def _labelled(text: str, depth: int) -> Iterable[Reading]:
    r"""A value before the letter of its choice: ``20 \textbf{ (C)}``, ``20 \Rightarrow B``."""
    if match := LABEL_AFTER.fullmatch(text):
        yield Choice(match[2] or match[3], match[1], read(match[1], depth + 1))


def _words(text: str, depth: int) -> Iterable[Reading]:
    if choice := choice_of(text):
        yield Choice(*choice)
    if re.fullmatch(r"[A-H]{2,5}", text) and list(text) == sorted(set(text)):  # several choices
        yield Items("", tuple((Choice(letter),) for letter in text))
    plain = bare(text)
    if meaning := meaning_of(plain):
        if meaning == "all":
            yield Region((EVERYTHING,))
        elif meaning == "empty":
            yield Items("{}", ())
        elif meaning == "infinity":
            yield Quantity(Node("name", leaf="infty"))
        return
    if (value := number_word(plain)) is not None:
        yield Quantity(number(value))
    if text.startswith('"') and text.endswith('"') and text.count('"') == 2 and depth < MAX_DEPTH:
        yield from (one for one in read(text.strip('"'), depth + 1) if not isinstance(one, Words))
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        yield Items("{}", ())
    if words := words_of(text):
        yield Words(words)


def _pair(text: str, depth: int) -> Iterable[Reading]:
    r"""``1 \pm \sqrt 2`` as the list of both values."""
    if r"\pm" not in text and r"\mp" not in text:
        return
    if len(pieces_of(text)) > 1 or re.search(r"[,;]", text):
        return
    upper = re.sub(r"\\mp(?![a-z])", "-", re.sub(r"\\pm(?![a-z])", "+", text))
    lower = re.sub(r"\\mp(?![a-z])", "+", re.sub(r"\\pm(?![a-z])", "-", text))
    if re.match(r".*=", text):
        name, _, _ = text.partition("=")
        (upper, lower) = (one.partition("=")[2] for one in (upper, lower))
        values = (read(upper, depth + 1), read(lower, depth + 1))
        if all(values) and NAME.fullmatch(name.replace(" ", "")):
            yield Named(name.replace(" ", ""), (Items("", values),))
        return
    values = (read(upper, depth + 1), read(lower, depth + 1))
    if all(values):
        yield Items("", values)


def _list(text: str, depth: int) -> Iterable[Reading]:
    if COMMA_NUMBER.match(text):
        joined = re.sub(r"(?<=\d),(?=\d{3})", "", text)
        if "," not in joined:
            yield from read(joined, depth + 1)
    if JUXTAPOSED.fullmatch(text):  # (1,2)(3,4)
        text = re.sub(r"\) ?\(", "),(", text)
    pieces = pieces_of(text)
    if len(pieces) < 2 or len(pieces) > MAX_ITEMS:
        return
    if re.search(r"(?:\band\b|\\(?:land|wedge)(?![a-z]))", text):
        yield from _both(pieces, depth)
    pieces = _spread_pairs(pieces)
    items = tuple(read(piece, depth + 1) for piece in pieces)
    if not all(items):
        return
    named = [next((one for one in item if isinstance(one, Named)), None) for item in items]
    shared = {one.name for one in named if one is not None}
    if len(shared) == 1 and (all(named) or (named[0] is not None and not any(named[1:]))):
        values = tuple(one.value if one is not None else item for one, item in zip(named, items, strict=True))
        yield Named(shared.pop(), (Items("", values),))
        return
    yield Items("", items)
    if len(shared) == len(items):  # x = 1, y = 2: also the tuple of the values in the order of the names
        ordered = sorted((one for one in named if one is not None), key=lambda one: one.name)
        yield Items("()", tuple(one.value for one in ordered))


def _both(pieces: Sequence[str], depth: int) -> Iterable[Reading]:
    """``x > 1 and x < 3`` as their intersection, unless that is empty: then "and" lists two parts of a set."""
    items = tuple(read(piece, depth + 1) for piece in pieces)
    together = region_of(Items("", items)) if all(items) else None
    if together is not None:
        outside = [one for piece in together.pieces for one in complement((piece,))]
        if inside := complement(tuple(outside)):
            yield Region(inside, together.name)


def _spread_pairs(pieces: Sequence[str]) -> list[str]:
    spread: list[str] = []
    for piece in pieces:
        if re.search(r"\\pm(?![a-z])", piece) and "=" not in piece:
            spread += [
                re.sub(r"\\pm(?![a-z])", sign, re.sub(r"\\mp(?![a-z])", other, piece)) for sign, other in ("+-", "-+")
            ]
        else:
            spread.append(piece)
    return spread


def _relation(text: str, depth: int) -> Iterable[Reading]:
    return relations(text, lambda part: read(part, depth + 1))


def _quantity(text: str, _: int) -> Iterable[Reading]:
    yield from quantities(text)
    yield from sums_of_units(text)


def _ratio(text: str, _: int) -> Iterable[Reading]:
    if match := TIME.fullmatch(text.strip('"')):
        half = (match[2] or "").lower().replace(".", "").replace(" ", "")
        yield Ratio(tuple(map(formula.parse, match[1].split(":"))), match[1].lstrip("0"), half)
        return
    parts = split_top(re.sub(r'"\s*to\s*"|(?<=\d) to (?=\d)', ":", text), re.compile(":"))[0]
    if 2 <= len(parts) <= 8:
        yield Ratio(tuple(map(formula.parse, parts)))


def _region(text: str, depth: int) -> Iterable[Reading]:
    if text in SETS:
        yield Region(SETS[text])
        return
    parts, operators = split_top(text, SET_OPERATOR)
    if not operators:
        return
    regions: list[Region] = []
    for part in parts:
        found = [region for one in read(part, depth + 1) if (region := region_of(one, sets=True)) is not None]
        if not found:
            return
        regions.append(found[0])
    pieces = list(regions[0].pieces)
    for operator, region in zip(operators, regions[1:], strict=True):
        if "cup" in operator:
            pieces += region.pieces
        else:
            other = complement(region.pieces) if "cap" in operator else region.pieces
            pieces = list(complement(complement(tuple(pieces)) + other))
    yield Region(tuple(pieces))


SET_OPERATOR = re.compile(r"\\(?:cup|cap|setminus)(?![a-zA-Z])|(?<=\})\\(?=\\\{)|(?<=\})-(?=\\\{)")
JUXTAPOSED = re.compile(r"(?:\([^(),]+,[^()]+\) ?){2,}")
BUILDER = re.compile(r"\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(.+)")
BRACKETS = (
    (r"\{", r"\}", "{}"),
    (r"\langle", r"\rangle", "()"),
    ("(", ")", "()"),
    ("[", "]", "[]"),
    ("(", "]", "(]"),
    ("[", ")", "[)"),
)


def _brackets(text: str, depth: int) -> Iterable[Reading]:
    for opening, closing, kind in BRACKETS:
        inner = outer_brackets(text, opening, closing)
        if inner is None:
            continue
        if kind == "{}" and (builder := BUILDER.fullmatch(inner)):
            yield from (one for one in read(builder[1], depth + 1) if isinstance(one, Region))
            continue
        pieces = pieces_of(inner, words=kind == "{}")
        if kind == "{}":
            items = tuple(read(piece, depth + 1) for piece in _spread_pairs(pieces)) if inner.strip() else ()
            if all(items):
                yield Items(kind, items)
        elif len(pieces) > 1:
            items = tuple(read(piece, depth + 1) for piece in pieces)
            if all(items):
                yield Items(kind, items)
        elif kind == "()":
            yield from (one for one in read(inner, depth + 1) if not isinstance(one, (Choice, Quantity)))


def _matrix(text: str, depth: int) -> Iterable[Reading]:
    if match := MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\", match[2]) if row.strip()]
        if match[1] == "cases" and "&" not in match[2]:
            yield from read(", ".join(rows), depth + 1)
        cells = tuple(tuple(read(cell, depth + 1) for cell in row.split("&")) for row in rows)
        if cells and all(all(row) for row in cells):
            yield Matrix(match[1], cells)
