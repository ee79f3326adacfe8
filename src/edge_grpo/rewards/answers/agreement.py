r"""Whether two readings of answers agree: the rules of equality, one per kind of answer.

Values are compared exactly or relatively (`value.same_formula`), never by an absolute difference. Where an answer could
mean two things and only one of them is right, it is wrong.
"""

import re
from collections.abc import Callable, Sequence

from edge_grpo.rewards.answers.kinds import (
    Choice,
    Congruence,
    Equation,
    Inequality,
    Items,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Reading,
    Readings,
    Region,
    Words,
    expression_in,
    region_of,
)
from edge_grpo.rewards.answers.regions import same_pieces
from edge_grpo.rewards.answers.tokens import Node, UnreadableError, number
from edge_grpo.rewards.answers.units import Unit
from edge_grpo.rewards.answers.value import constant_ratio, is_constant, names, same_formula, substituted, value_at

__all__ = ["agree"]

DEGREE, RADIAN = (("degree", 1),), (("radian", 1),)
FUNCTION_OF = re.compile(r"(\w+)\(([A-Za-z])\)")
MAX_UNORDERED = 60  # longer lists must agree in order


def agree(left: Readings, right: Readings) -> bool:
    """Whether any reading of one answer equals any reading of the other."""
    return any(_same(one, two) for one in left for two in right)


def _same(one: Reading, two: Reading) -> bool:
    try:
        for kinds, same in RULES:
            if isinstance(one, kinds[0]) and isinstance(two, kinds[1]):
                return same(one, two)
            if isinstance(two, kinds[0]) and isinstance(one, kinds[1]):
                return same(two, one)
    except (UnreadableError, ZeroDivisionError):
        return False
    return False


def _same_quantities(one: Quantity, two: Quantity) -> bool:
    if one.unit is None and two.unit is None:
        return same_formula(one.tree, two.tree)
    if one.unit is not None and two.unit is not None:
        if {one.unit.powers, two.unit.powers} == {DEGREE, RADIAN}:
            return same_formula(_in_radians(one), _in_radians(two))
        return one.unit.powers == two.unit.powers and same_formula(_in_base(one), _in_base(two))
    with_unit, plain = (one, two) if one.unit is not None else (two, one)
    assert with_unit.unit is not None
    return _same_without_unit(with_unit.tree, with_unit.unit, plain.tree)


def _in_radians(quantity: Quantity) -> Node:
    in_degrees = quantity.unit is not None and quantity.unit.powers == DEGREE
    return Node("*", (quantity.tree, Node("degree"))) if in_degrees else quantity.tree


def _in_base(quantity: Quantity) -> Node:
    factor = quantity.unit.factor if quantity.unit is not None else 1
    return quantity.tree if factor == 1 else Node("*", (quantity.tree, number(factor)))


def _same_without_unit(tree: Node, unit: Unit, plain: Node) -> bool:
    r"""A unit may be left out. A percentage equals the number it stands for; 50 is also 50 %, but 0.25 is not 0.25 %.

    An angle in degrees also equals its value, so that ``90^\circ`` is ``\frac{\pi}{2}``.
    """
    if unit.named("%"):
        if same_formula(Node("/", (tree, number(100))), plain):
            return True
        return same_formula(tree, plain) and not (
            is_constant(plain) and -1 <= value_at(plain, 0) <= 1 and value_at(plain, 0)
        )
    if same_formula(tree, plain):
        return True
    return unit.named("degree") and same_formula(Node("*", (tree, Node("degree"))), plain)


def _same_items(one: Items, two: Items) -> bool:
    unordered = {"", "{}"}
    for single, other in ((one, two), (two, one)):
        if single.brackets in unordered and len(single.items) == 1 and other.brackets not in unordered:
            return agree(single.items[0], (other,))
    if one.brackets in unordered and two.brackets in unordered:
        return _same_elements(one.items, two.items, distinct=one.brackets == "{}" or two.brackets == "{}")
    if one.brackets != two.brackets and {one.brackets, two.brackets} != {"", "()"}:
        regions = region_of(one), region_of(two)
        return regions[0] is not None and regions[1] is not None and same_pieces(regions[0].pieces, regions[1].pieces)
    if len(one.items) == len(two.items) and all(map(agree, one.items, two.items)):
        return True
    regions = region_of(one), region_of(two)
    if one.brackets == two.brackets == "" and regions[0] and regions[1]:
        return same_pieces(regions[0].pieces, regions[1].pieces)
    return False


def _same_elements(left: Sequence[Readings], right: Sequence[Readings], *, distinct: bool) -> bool:
    """Every element of one has a partner in the other; a set may name an element twice, a list may not."""
    if len(left) > MAX_UNORDERED or len(right) > MAX_UNORDERED:
        return len(left) == len(right) and all(map(agree, left, right))
    if distinct:
        return all(any(agree(one, two) for two in right) for one in left) and all(
            any(agree(one, two) for one in left) for two in right
        )
    rest = list(right)
    for one in left:
        match = next((index for index, two in enumerate(rest) if agree(one, two)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def _items_and_other(items: Items, other: Reading) -> bool:
    """A list or set of one element is that element."""
    return items.brackets in ("", "{}") and len(items.items) == 1 and agree(items.items[0], (other,))


def _same_regions(one: Region, two: Region) -> bool:
    return (not one.name or not two.name or one.name == two.name) and same_pieces(one.pieces, two.pieces)


def _region_and_items(region: Region, items: Items) -> bool:
    other = region_of(items) or region_of(items, sets=True)
    return other is not None and _same_regions(region, other)


def _same_named(one: Named, two: Named) -> bool:
    if one.name == two.name and agree(one.value, two.value):
        return True
    if _same_functions(one, two):
        return True
    if one.equation is None or two.equation is None:
        return False
    return _proportional(_difference(*one.equation), _difference(*two.equation))


def _same_functions(one: Named, two: Named) -> bool:
    """``f(x) = 2x`` and ``f(t) = 2t``."""
    first, second = FUNCTION_OF.fullmatch(one.name), FUNCTION_OF.fullmatch(two.name)
    left, right = expression_in(one.value), expression_in(two.value)
    if first is None or second is None or left is None or right is None:
        return False
    if first[1] != second[1] or second[2] in names(left) - {first[2]}:
        return False
    return same_formula(substituted(left, first[2], Node("name", leaf=second[2])), right)


def _named_and_other(named: Named, other: Reading) -> bool:
    return agree(named.value, (other,))


def _named_and_equation(named: Named, equation: Equation) -> bool:
    if named.equation is None or "(" in named.name:
        return False
    return _proportional(_difference(*named.equation), _difference(equation.left, equation.right))


def _same_equations(one: Equation, two: Equation) -> bool:
    return _proportional(_difference(one.left, one.right), _difference(two.left, two.right))


def _difference(left: Node, right: Node) -> Node:
    return Node("-", (left, right))


def _proportional(left: Node, right: Node) -> bool:
    return constant_ratio(left, right) is not None


def _same_inequalities(one: Inequality, two: Inequality) -> bool:
    ratio = constant_ratio(one.difference, two.difference)
    return one.strict == two.strict and ratio is not None and ratio > 0


def _same_congruences(one: Congruence, two: Congruence) -> bool:
    return (
        one.left == two.left
        and same_formula(one.modulus, two.modulus)
        and _same_elements(
            [(Quantity(_residue(value, one.modulus)),) for value in one.residues],
            [(Quantity(_residue(value, two.modulus)),) for value in two.residues],
            distinct=True,
        )
    )


def _residue(value: Node, modulus: Node) -> Node:
    if not (is_constant(value) and is_constant(modulus)):
        return value
    return number(value_at(value, 0) % value_at(modulus, 0))


def _same_matrices(one: Matrix, two: Matrix) -> bool:
    if one.kind != two.kind or list(map(len, one.rows)) != list(map(len, two.rows)):
        return False
    return all(
        agree(a, b) for left, right in zip(one.rows, two.rows, strict=True) for a, b in zip(left, right, strict=True)
    )


def _matrix_and_items(matrix: Matrix, items: Items) -> bool:
    """A single row or column is also a vector."""
    if matrix.kind != "pmatrix" or items.brackets != "()" or 1 not in (len(matrix.rows), len(matrix.rows[0])):
        return False
    cells = [cell for row in matrix.rows for cell in row]
    return len(cells) == len(items.items) and all(map(agree, cells, items.items))


def _same_ratios(one: Ratio, two: Ratio) -> bool:
    if one.time and two.time:
        return one.time == two.time and (one.half == two.half or not one.half or not two.half)
    if len(one.terms) != len(two.terms) or one.half or two.half:
        return False
    first = Node("/", (one.terms[0], two.terms[0]))
    return all(same_formula(Node("/", pair), first) for pair in zip(one.terms, two.terms, strict=True))


def _ratio_and_quantity(ratio: Ratio, quantity: Quantity) -> bool:
    if len(ratio.terms) == 1:  # 11 a.m.
        return quantity.unit is None and same_formula(ratio.terms[0], quantity.tree)
    if len(ratio.terms) != 2 or quantity.unit is not None or ratio.time:
        return False
    return same_formula(Node("/", ratio.terms), quantity.tree)


def _same_choices(one: Choice, two: Choice) -> bool:
    return one.letter == two.letter and (not one.rest or not two.rest or one.rest == two.rest)


def _choice_and_other(choice: Choice, other: Reading) -> bool:
    return agree(choice.value, (other,))


def _same_words(one: Words, two: Words) -> bool:
    return one.text == two.text


Rule = tuple[tuple[type | tuple[type, ...], type | tuple[type, ...]], Callable[..., bool]]
RULES: tuple[Rule, ...] = (
    ((Quantity, Quantity), _same_quantities),
    ((Named, Named), _same_named),
    ((Named, Equation), _named_and_equation),
    ((Named, (Quantity, Items, Region, Matrix, Ratio, Words)), _named_and_other),
    ((Items, Items), _same_items),
    ((Region, Region), _same_regions),
    ((Region, Items), _region_and_items),
    ((Matrix, Items), _matrix_and_items),
    ((Items, (Quantity, Matrix, Ratio, Words, Choice)), _items_and_other),
    ((Equation, Equation), _same_equations),
    ((Inequality, Inequality), _same_inequalities),
    ((Congruence, Congruence), _same_congruences),
    ((Matrix, Matrix), _same_matrices),
    ((Ratio, Ratio), _same_ratios),
    ((Ratio, Quantity), _ratio_and_quantity),
    ((Choice, Choice), _same_choices),
    ((Choice, (Quantity, Items, Region, Matrix, Ratio, Named, Equation, Words)), _choice_and_other),
    ((Words, Words), _same_words),
)
