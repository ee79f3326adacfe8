"""What an answer can be: the results of `reading`, compared by `agreement`."""

from dataclasses import dataclass

from edge_grpo.rewards.answers.regions import Piece, point
from edge_grpo.rewards.answers.tokens import Node, UnreadableError
from edge_grpo.rewards.answers.units import Unit
from edge_grpo.rewards.answers.value import is_constant, sign_of

__all__ = [
    "Choice",
    "Congruence",
    "Equation",
    "Inequality",
    "Items",
    "Matrix",
    "Named",
    "Quantity",
    "Ratio",
    "Reading",
    "Readings",
    "Region",
    "Words",
    "expression_in",
    "region_of",
]


@dataclass(frozen=True)
class Quantity:
    """An expression, with a unit or without."""

    tree: Node
    unit: Unit | None = None


@dataclass(frozen=True)
class Items:
    """Elements in brackets; a bare list and a set, ``{}``, have no order."""

    brackets: str
    items: tuple["Readings", ...]


@dataclass(frozen=True)
class Region:
    """A set of real numbers, perhaps of a named variable."""

    pieces: tuple[Piece, ...]
    name: str = ""


@dataclass(frozen=True)
class Named:
    """A value with the name it was given: ``x = 5``, ``f(x) = 2x``."""

    name: str
    value: "Readings"
    equation: tuple[Node, Node] | None = None


@dataclass(frozen=True)
class Equation:
    """Both sides of an equation that gives no name a value."""

    left: Node
    right: Node


@dataclass(frozen=True)
class Inequality:
    """``difference > 0``, or ``>= 0`` unless strict; more than one variable, or not linear."""

    difference: Node
    strict: bool


@dataclass(frozen=True)
class Congruence:
    """``left`` is congruent to one of ``residues``."""

    left: str
    residues: tuple[Node, ...]
    modulus: Node


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix, or of the determinant that ``kind`` names."""

    kind: str
    rows: tuple[tuple["Readings", ...], ...]


@dataclass(frozen=True)
class Ratio:
    """Terms of a ratio; a time of day like 12:30 is equal only to itself."""

    terms: tuple[Node, ...]
    time: str = ""
    half: str = ""


@dataclass(frozen=True)
class Choice:
    """The letter of a choice, what follows its label, and the value before it."""

    letter: str
    rest: str = ""
    value: "Readings" = ()


@dataclass(frozen=True)
class Words:
    """An answer in words, in lower case."""

    text: str


Reading = Quantity | Items | Region | Named | Equation | Inequality | Congruence | Matrix | Ratio | Choice | Words
Readings = tuple[Reading, ...]


def expression_in(readings: Readings) -> Node | None:
    """The expression among the readings, if there is one without a unit."""
    return next((one.tree for one in readings if isinstance(one, Quantity) and one.unit is None), None)


def region_of(reading: Reading, *, sets: bool = False) -> Region | None:
    """A reading as a set of real numbers: an interval, an inequality, a list of these, or, with ``sets``, a set."""
    if isinstance(reading, Region):
        return reading
    if not isinstance(reading, Items):
        return None
    if reading.brackets == "{}":
        return _finite_set(reading) if sets and reading.items else None
    return _interval(reading) if reading.brackets else _union(reading)


def _finite_set(items: Items) -> Region | None:
    trees = [expression_in(item) for item in items.items]
    return None if None in trees else Region(tuple(point(tree) for tree in trees if tree is not None))


def _union(items: Items) -> Region | None:
    """``x < 1, x > 2`` as one set."""
    regions = [one for item in items.items for one in item[:1] if isinstance(one, Region)]
    if len(regions) != len(items.items) or len({one.name for one in regions}) != 1:
        return None
    return Region(tuple(piece for one in regions for piece in one.pieces), regions[0].name)


def _interval(items: Items) -> Region | None:
    """``(1, 2]`` as an interval, provided its ends are in order."""
    ends = [expression_in(item) for item in items.items]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    low, high = (None if _infinite(end) else end for end in ends if end is not None)
    try:
        if low is not None and high is not None and is_constant(low) and is_constant(high) and sign_of(low, high) >= 0:
            return None
    except UnreadableError:
        return None
    return Region((Piece(low, items.brackets[0] == "[", high, items.brackets[1] == "]"),))


def _infinite(end: Node) -> bool:
    return end.leaf == "infty" or (end.op == "neg" and end.args[0].leaf == "infty")
