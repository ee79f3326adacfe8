r"""Equations, inequalities, membership and congruences: ``x = 5``, ``-2 \le x < 7``, ``x \equiv 3 \pmod 7``."""

import re
from collections.abc import Callable, Iterable, Sequence

from edge_grpo.rewards.answers import formula
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
from edge_grpo.rewards.answers.tokens import Node, UnreadableError, number
from edge_grpo.rewards.answers.value import is_constant, is_rounded, names, same_formula, sign_of, substituted

__all__ = ["NAME", "relations"]

Read = Callable[[str], Readings]
RELATION = re.compile(r"\\(?:le|ge|ne|equiv|approx|in)(?![a-zA-Z])|[<>=]")
MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
MOD = re.compile(r"\(?\s*\\mod\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]+))\s*\)?\s*$")
NAME = re.compile(
    r"\(?[A-Za-z](?:_\{?\w+\}?)?'*(?:,[A-Za-z](?:_\{?\w+\}?)?)*\)?"  # x, x_1, (x,y)
    r"|(?:\\[A-Za-z]+|[A-Za-z])(?:_\{[^{}]*\}|_\w)?"
    r"|(?:[A-Za-z]|\\(?!sqrt)[A-Za-z]+(?:\{[A-Z]\})?|\"[^\"]*\")(?:_\{?\w+\}?)?'*(?:\^\{-1\})?"
    r"(?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"  # f(x)
    r"|\\(?:sin|cos|tan|cot|ln|log)(?:\^\{2\})?(?:\\(?:angle)?)?[A-Za-z]+"
    r"|\|[^|]+\|"
    r'|"[^"]*"(?:_\{[^{}]*\})?|[A-Za-z]{3,}'  # words
    r"|\\?\|?[A-Z]{2,4}\|?|(?:\\angle|m\\angle|\\overline|\\triangle)\{?[A-Z]{1,3}\}?|\\vec\{\w\}"  # of geometry
    r"|[A-Za-z](?:[-+][A-Za-z])+|[a-z]{2}|[A-Za-z]{1,2}(?::[A-Za-z]{1,2})+|[A-Za-z]/[A-Za-z]"
    r"|\\frac\{[A-Za-z]{1,2}\}\{[A-Za-z]{1,2}\}"
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
        if operators[-1] != "=" and (found := _rounded(parts, read)):
            yield from found
        else:
            yield from _equation(parts, read)
    elif operators == [r"\ne"] and NAME.fullmatch(parts[0].replace(" ", "")):
        values = [formula.parse(piece) for piece in pieces_of(parts[1])]
        yield Region(complement(tuple(map(point, values))), parts[0].replace(" ", ""))
    elif set(operators) <= {"<", r"\le"} or set(operators) <= {">", r"\ge"}:
        yield from _inequality(parts, operators)


def _equation(parts: Sequence[str], read: Read) -> Iterable[Reading]:
    name = parts[0].replace(" ", "")
    if not NAME.fullmatch(name) or _has_value(name):
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


def _has_value(name: str) -> bool:
    r"""Whether the left side is a constant such as ``\sin(30)``, not a name; e and i are names too."""
    try:
        return len(name) > 1 and is_constant(formula.parse(name))
    except UnreadableError:
        return False


def _rounded(parts: Sequence[str], read: Read) -> Readings:
    r"""Both values of ``\sqrt 2 \approx 1.414``, provided that the last one is the other one rounded."""
    try:
        exact, rounded = formula.parse(parts[-2]), expression_in(read(parts[-1]))
    except UnreadableError:
        return ()
    if rounded is None or not is_constant(exact) or not is_rounded(rounded, exact):
        return ()
    return read("=".join(parts[:-1])) + read("=".join([*parts[:-2], parts[-1]]))


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
        else:
            smaller, middle, larger = map(formula.parse, parts)
            yield from _between(smaller, middle, larger, closed)
        return
    if len(parts) != 2:
        return
    low, high = (part.replace(" ", "") for part in parts)
    if NAME.fullmatch(low):
        yield Region((Piece(None, False, _end(parts[1]), closed[0]),), low)
    if NAME.fullmatch(high):
        yield Region((Piece(_end(parts[0]), closed[0], None, False),), high)
    smaller, larger = map(formula.parse, parts)
    if (region := _half_line(smaller, larger, closed[0])) is not None:
        yield region
    if smaller.op == "abs" and is_constant(larger):
        yield from _between(Node("neg", (larger,)), smaller.args[0], larger, closed * 2)
    elif larger.op == "abs" and is_constant(smaller) and sign_of(smaller, number(0)) >= 0:
        (inside,) = larger.args
        sides = _half_line(inside, Node("neg", (smaller,)), closed[0]), _half_line(smaller, inside, closed[0])
        if sides[0] and sides[1]:
            yield Region(sides[0].pieces + sides[1].pieces, sides[0].name)
    yield Inequality(Node("-", (larger, smaller)), not closed[0])


def _half_line(smaller: Node, larger: Node, closed: bool) -> Region | None:
    """Where one side is below the other, if their difference is linear in one variable."""
    if (solved := _solved(Node("-", (larger, smaller)))) is None:
        return None
    name, slope, bound = solved
    return Region((Piece(bound, closed, None, False) if slope > 0 else Piece(None, False, bound, closed),), name)


def _between(low: Node, middle: Node, high: Node, closed: Sequence[bool]) -> Iterable[Region]:
    sides = _half_line(low, middle, closed[0]), _half_line(middle, high, closed[1])
    if sides[0] and sides[1] and sides[0].name == sides[1].name:
        outside = complement(sides[0].pieces) + complement(sides[1].pieces)
        yield Region(complement(outside), sides[0].name)


def _solved(difference: Node) -> tuple[str, int, Node] | None:
    """Name, sign of the slope and root of a linear expression in one variable."""
    if len(variables := names(difference)) != 1:
        return None
    (name,) = variables
    zero, one, two = (substituted(difference, name, number(value)) for value in (0, 1, 2))
    slope = Node("-", (one, zero))
    if sign_of(Node("-", (two, one)), slope) or not (direction := sign_of(slope, number(0))):
        return None
    return name, direction, Node("neg", (Node("/", (zero, slope)),))


def _end(text: str) -> Node | None:
    text = text.replace(" ", "")
    return None if text.lstrip("+-") in (r"\infty", "inf") else formula.parse(text)
