r"""Equations, inequalities, membership and congruences: ``x = 5``, ``-2 \le x < 7``, ``x \equiv 3 \pmod 7``."""

import re
from collections.abc import Callable, Iterable, Sequence

from edge_grpo.rewards.answers import formula
from edge_grpo.rewards.answers.formula import Node, UnreadableError, number
from edge_grpo.rewards.answers.kinds import (
    Congruence,
    Equation,
    Inequality,
    Items,
    Named,
    Quantity,
    Reading,
    Readings,
    Region,
    expression_in,
    region_of,
)
from edge_grpo.rewards.answers.regions import Piece, complement, point
from edge_grpo.rewards.answers.split import pieces_of, split_top
from edge_grpo.rewards.answers.value import is_constant, names, same_formula, sign_of

__all__ = ["NAME", "relations"]

Read = Callable[[str], Readings]
RELATION = re.compile(r"\\(?:le|ge|ne|equiv|approx|in)(?![a-zA-Z])|[<>=]")
MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
MOD = re.compile(r"\(?\s*\\mod\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]+))\s*\)?\s*$")
NAME = re.compile(
    r"\(?[A-Za-z](?:_\{?\w+\}?)?'*(?:,[A-Za-z](?:_\{?\w+\}?)?)*\)?"  # x, x_1, (x,y)
    r"|(?:\\[A-Za-z]+|[A-Za-z])(?:_\{[^{}]*\}|_\w)?"
    r"|[A-Za-z](?:_\{?\w+\}?)?'*\([^()]*\)"  # f(x)
    r'|"[^"]*"(?:_\{[^{}]*\})?|[A-Za-z]{3,}'  # words
    r"|\\?\|?[A-Z]{2,4}\|?|(?:\\angle|m\\angle|\\overline|\\triangle)\{?[A-Z]{1,3}\}?|\\vec\{\w\}"  # of geometry
    r"|[A-Za-z](?:\+[A-Za-z])+"
)


def relations(text: str, read: Read) -> Iterable[Reading]:
    """The readings of a text with a relation outside all brackets; ``read`` reads its sides."""
    parts, operators = split_top(text, RELATION)
    operators = [one.strip() for one in operators]
    if not operators or len(parts) > 6:
        return
    if not parts[0].strip() or not parts[-1].strip():
        return
    if operators == [r"\equiv"]:
        yield from _congruence(*parts)
    elif operators == [r"\in"]:
        for reading in read(parts[1]):
            if (region := region_of(reading)) is not None:
                yield Region(region.pieces, parts[0].replace(" ", ""))
            elif isinstance(reading, Items):
                yield Named(parts[0].replace(" ", ""), (reading,))
    elif set(operators) <= {"=", r"\approx"}:
        yield from _equation(parts, read)
    elif operators == [r"\ne"] and NAME.fullmatch(parts[0].replace(" ", "")):
        values = [formula.parse(piece) for piece in pieces_of(parts[1])]
        yield Region(complement(tuple(map(point, values))), parts[0].replace(" ", ""))
    elif set(operators) <= {"<", r"\le"} or set(operators) <= {">", r"\ge"}:
        yield from _inequality(parts, operators)


def _equation(parts: Sequence[str], read: Read) -> Iterable[Reading]:
    name = parts[0].replace(" ", "")
    if not NAME.fullmatch(name):
        trees = [formula.parse(part) for part in parts]
        if all(is_constant(tree) for tree in trees):
            if all(sign_of(trees[0], tree) == 0 for tree in trees[1:]):
                yield Quantity(trees[-1])
        elif len(trees) == 2:
            reversed_name = parts[1].replace(" ", "")
            if re.fullmatch(r"[A-Za-z]", reversed_name):
                yield Named(reversed_name, (Quantity(trees[0]),), (trees[0], trees[1]))
            yield Equation(trees[0], trees[1])
        return
    readings = [read(part) for part in parts[1:]]
    if not all(readings):
        return
    if len(readings) > 1:
        values = [expression_in(reading) for reading in readings]
        last = values[-1]
        if last is None or not all(value is not None and _consistent(value, last) for value in values):
            return
    equation = None
    try:
        equation = (formula.parse(parts[0]), formula.parse(parts[1])) if len(parts) == 2 else None
    except UnreadableError:
        equation = None
    yield Named(name, readings[-1], equation)


def _consistent(value: Node, last: Node) -> bool:
    r"""Whether a member of a chain such as ``A = \pi r^2 = 4\pi`` fits the last one."""
    return is_constant(last) > is_constant(value) or same_formula(value, last)


def _congruence(left: str, right: str) -> Iterable[Reading]:
    if match := MOD.search(right):
        modulus = formula.parse(match[1] or match[2])
        residues = tuple(map(formula.parse, pieces_of(right[: match.start()])))
        yield Congruence(left.replace(" ", ""), residues, modulus)


def _inequality(parts: Sequence[str], operators: Sequence[str]) -> Iterable[Reading]:
    if operators[0] in (">", r"\ge"):
        parts, operators = parts[::-1], [MIRRORED[one] for one in operators[::-1]]
    closed = [one == r"\le" for one in operators]
    if len(parts) == 3:
        name = parts[1].replace(" ", "")
        if NAME.fullmatch(name):
            yield Region((Piece(_end(parts[0]), closed[0], _end(parts[2]), closed[1]),), name)
        return
    if len(parts) != 2:
        return
    low, high = (part.replace(" ", "") for part in parts)
    if NAME.fullmatch(low):
        yield Region((Piece(None, False, _end(parts[1]), closed[0]),), low)
    if NAME.fullmatch(high):
        yield Region((Piece(_end(parts[0]), closed[0], None, False),), high)
    difference = Node("-", (formula.parse(parts[1]), formula.parse(parts[0])))
    if (solved := _solved(difference)) is not None:
        name, slope, bound = solved
        piece = Piece(bound, closed[0], None, False) if slope > 0 else Piece(None, False, bound, closed[0])
        yield Region((piece,), name)
    yield Inequality(difference, not closed[0])


def _solved(difference: Node) -> tuple[str, int, Node] | None:
    """Name, sign of the slope and root of a linear expression in one variable."""
    if len(variables := names(difference)) != 1:
        return None
    (name,) = variables
    zero, one, two = (_substituted(difference, name, value) for value in (0, 1, 2))
    slope = Node("-", (one, zero))
    if sign_of(Node("-", (two, one)), slope) or not (direction := sign_of(slope, number(0))):
        return None
    return name, direction, Node("neg", (Node("/", (zero, slope)),))


def _substituted(tree: Node, name: str, value: int) -> Node:
    if tree.op == "name" and tree.leaf == name:
        return number(value)
    return tree._replace(args=tuple(_substituted(one, name, value) for one in tree.args))


def _end(text: str) -> Node | None:
    text = text.replace(" ", "")
    return None if text.lstrip("+-") in (r"\infty", "inf") else formula.parse(text)
