r"""Values of expressions: exact fractions where possible, else numbers of 120 digits, with variables at fixed points.

Two expressions are equal if they agree at several points. Numbers of more than `MAX_BITS` bits are never computed.

Source:
    Identity testing at random points: Schwartz, "Fast probabilistic algorithms for verification of polynomial
    identities", JACM 1980. Two different answers agree by chance with a probability far below 1e-9.
"""

import math
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

from edge_grpo.rewards.answers.tokens import Node, UnreadableError

__all__ = [
    "constant_ratio",
    "is_constant",
    "is_rounded",
    "names",
    "same_formula",
    "sign_of",
    "substituted",
    "value_at",
]

MAX_BITS = 50_000
SMALL_BITS = 8  # of an exponent whose root is computed exactly
MAX_FACTORIAL = 3000  # exact; larger ones are computed in floating point
DIGITS = 120
CLOSE = Fraction(1, 10**60)  # relative difference of two equal values
NOISE = Fraction(1, 10**100)  # of a sum that cancels
ROUNDED_DIGITS = 7  # a decimal of at least as many significant digits equals an exact value that rounds to it
SPREAD = (1, 1, 5, 3)  # one factor per point; variables may be negative at the odd ones
POINTS = len(SPREAD)

mp = MPContext()
mp.dps = DIGITS
Value = Any  # Fraction, or mpmath's real or complex


class OutsideError(ValueError):
    """A function of reals has no real value at this point."""


def names(tree: Node) -> frozenset[str]:
    """The variables of an expression."""
    if tree.op == "name":
        return frozenset({str(tree.leaf)})
    return frozenset().union(*map(names, tree.args))


def is_constant(tree: Node) -> bool:
    """Whether an expression has no variables."""
    return not names(tree)


def substituted(tree: Node, name: str, value: Node) -> Node:
    """The expression with a variable replaced."""
    if tree.op == "name" and tree.leaf == name:
        return value
    return tree._replace(args=tuple(substituted(one, name, value) for one in tree.args))


def same_formula(left: Node, right: Node) -> bool:
    r"""Whether two expressions are equal wherever both are defined.

    A numeral in a base equals only one in the same base. A decimal of `ROUNDED_DIGITS` or more significant digits
    equals a number written without a decimal point that lies within one unit of its last place.

    Raises:
        UnreadableError: a number is too large to be computed.
    """
    if (left.op == "based") != (right.op == "based"):
        return False
    if left.op == "based":
        return left == right
    variables = names(left) | names(right)
    if not variables:
        one, two = value_at(left, 0), value_at(right, 0)
        return _same(one, two) or _rounds(left, one, right, two)
    agreed = 0
    for point in range(POINTS):
        try:
            same = _same(value_at(left, point), value_at(right, point))
        except (OutsideError, UnreadableError, ZeroDivisionError):
            continue
        if not same:
            return False
        agreed += 1
    return agreed > 0


def constant_ratio(left: Node, right: Node) -> Value | None:
    """The ratio of two expressions if it is the same at every point and not 0, else None."""
    ratio = None
    for point in range(POINTS):
        try:
            above, below = value_at(left, point), value_at(right, point)
            if not above or not below:
                return None
            one = _apply("/", [above, below], free=True)
        except (OutsideError, UnreadableError, ZeroDivisionError):
            continue
        if ratio is not None and not _same(ratio, one):
            return None
        ratio = one
    return ratio


def sign_of(left: Node, right: Node) -> int:
    """The sign of the difference of two real constants."""
    if same_formula(left, right):
        return 0
    difference = value_at(Node("-", (left, right)), 0)
    if isinstance(difference, mp.mpc):
        raise UnreadableError("not real")
    return 1 if difference > 0 else -1


def _same(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = _float(left), _float(right)
    size = max(abs(left), abs(right))
    if not mp.isfinite(size):
        return False
    if size < _float(NOISE):
        return not left or not right or bool(abs(left - right) <= size * _float(CLOSE))
    return bool(abs(left - right) <= size * _float(CLOSE)) or (
        bool(abs(left - right) < _float(NOISE)) and (not left or not right)
    )


def _rounds(left: Node, one: Value, right: Node, two: Value) -> bool:
    """Whether exactly one is a long decimal, and within one unit in its last place of the other."""
    first, second = _written_decimal(left), _written_decimal(right)
    if bool(first) == bool(second):
        return bool(first and second) and _near(one, two, Fraction(1, 10**9))
    digits, decimal, exact = (first, one, two) if first else (second, two, one)
    if digits < ROUNDED_DIGITS or isinstance(exact, mp.mpc) or not decimal:
        return False
    return bool(abs(_float(decimal) - _float(exact)) <= _last_place(decimal, digits))


def _last_place(decimal: Fraction, digits: int) -> Value:
    """One unit in the last of a decimal's significant digits."""
    size = abs(decimal)
    place = math.floor(math.log10(size.numerator) - math.log10(size.denominator)) + 1 - digits
    return mp.mpf(10) ** place * mp.mpf("1.0000001")


def is_rounded(rounded: Node, exact: Node) -> bool:
    """Whether a constant is another one, rounded or cut to the digits it is written with."""
    one, two = value_at(rounded, 0), value_at(exact, 0)
    if not isinstance(one, Fraction) or isinstance(two, mp.mpc):
        return False
    digits = _written_decimal(rounded)
    distance = abs(_float(one) - _float(two))
    return bool(distance <= _last_place(one, digits) if digits and one else distance <= mp.mpf("0.5"))


def _near(left: Value, right: Value, share: Fraction) -> bool:
    left, right = _float(left), _float(right)
    return bool(abs(left - right) <= _float(share) * max(abs(left), abs(right)))


def _written_decimal(tree: Node) -> int:
    """Significant digits of a decimal, perhaps with a sign or times a power of ten; 0 for anything else."""
    if tree.op == "neg":
        return _written_decimal(tree.args[0])
    if tree.op == "*" and tree.args[1].op == "^":
        return _written_decimal(tree.args[0])
    return tree.digits if tree.op == "number" else 0


def value_at(tree: Node, point: int) -> Value:
    """The value of an expression; its variables have values that depend on their names and on the point.

    Raises:
        UnreadableError: a number would be too large.
        OutsideError: a function of real numbers is not real there.
        ZeroDivisionError: as it says.
    """
    if tree.op == "number":
        return tree.leaf
    if tree.op == "name":
        seed = zlib.crc32(f"{point} {tree.leaf}".encode())
        value = Fraction(seed % 9973 + 1000, 4999) * SPREAD[point]
        return -value if point % 2 and seed >> 20 & 1 else value
    if tree.op == "constant":
        return {"e": mp.e, "pi": mp.pi, "i": mp.mpc(0, 1)}[str(tree.leaf)] * 1
    if tree.op == "degree":
        return mp.pi / 180
    if tree.op == "based":
        raise UnreadableError("a numeral in a base within an expression")
    values = [value_at(one, point) for one in tree.args]
    try:
        return _apply(tree.op, values, free=point > 0 or bool(names(tree)))
    except (ValueError, OverflowError, TypeError) as error:
        if isinstance(error, (UnreadableError, OutsideError)):
            raise
        raise UnreadableError(f"{tree.op} cannot be computed: {error}") from None


def _apply(op: str, values: list[Value], *, free: bool) -> Value:
    if op in ARITHMETIC:
        if not all(isinstance(one, Fraction) for one in values):
            values = [_float(one) for one in values]
        return ARITHMETIC[op](*values)
    if op == "^":
        result = _power(*values)
    elif op == "root":
        result = _root(*values)
    elif op in ("!", "binom"):
        return _factorial(values[0]) if op == "!" else _binomial(*values)
    elif op in ("lfloor", "lceil", "max", "min", "gcd", "lcm"):
        return _whole(op, values)
    else:
        arguments = [_float(one) for one in values]
        result = +TRANSCENDENTAL[op](*arguments) if op in TRANSCENDENTAL else _unknown(op)
    if free and isinstance(result, mp.mpc) and result.imag and not any(isinstance(one, mp.mpc) for one in values):
        raise OutsideError(op)
    return result


def _unknown(op: str) -> Value:
    raise UnreadableError(f"unknown {op}")


ARITHMETIC: dict[str, Callable[..., Value]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
}
TRANSCENDENTAL: dict[str, Callable[..., Value]] = {
    **{name: getattr(mp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "ln")},
    **{name: getattr(mp, name) for name in ("sinh", "cosh", "tanh", "coth")},
    **{f"arc{name}": getattr(mp, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")},
    "log": lambda x, base=10: mp.ln(x) / mp.ln(base),
    "lg": lambda x: mp.ln(x) / mp.ln(10),
}


def _float(value: Value) -> Value:
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


def _bits(value: Fraction) -> int:
    return max(abs(value.numerator).bit_length(), value.denominator.bit_length())


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if base in (0, 1, -1):
            return base ** int(exponent % 2 if base else exponent) if exponent or base else Fraction(1)
        if _bits(base) * abs(exponent) > MAX_BITS:
            raise UnreadableError(f"a number of more than {MAX_BITS} bits")
        return base ** int(exponent)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and _bits(exponent) <= SMALL_BITS:
        return _root(_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    base, exponent = _float(base), _float(exponent)
    if not base:
        return mp.mpf(0) if exponent.real > 0 else Fraction(1, 0)
    if abs(exponent) * (abs(mp.ln(abs(base))) + 4) > MAX_BITS:
        raise UnreadableError(f"a number of more than {MAX_BITS} bits")
    return base**exponent


def _root(value: Value, index: Value) -> Value:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 0 < index <= 1000:
        return _power(_float(value), 1 / index)
    degree = int(index)
    if isinstance(value, Fraction):
        negative, size = value < 0, abs(value)
        above, below = (_exact_root(part, degree) for part in (size.numerator, size.denominator))
        if above is not None and below is not None and not (negative and degree % 2 == 0):
            return Fraction(-above if negative else above, below)
    value = _float(value)
    if degree % 2 and not isinstance(value, mp.mpc) and value < 0:
        return -mp.root(-value, degree)
    return mp.sqrt(value) if degree == 2 else mp.root(value, degree)


def _exact_root(value: int, degree: int) -> int | None:
    if value.bit_length() > 4000:
        return None
    root = math.isqrt(value) if degree == 2 else int(mp.nint(mp.root(value, degree)))
    return root if root**degree == value else None


def _factorial(value: Value) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        if not 0 <= value <= 10**9:
            raise UnreadableError("factorial of a large or negative number")
        if value <= MAX_FACTORIAL:
            return Fraction(math.factorial(int(value)))
    value = _float(value)
    if abs(value) > 10**9:
        raise UnreadableError("factorial of a large number")
    return mp.gamma(value + 1)


def _binomial(above: Value, below: Value) -> Value:
    whole = all(isinstance(one, Fraction) and one.denominator == 1 for one in (above, below))
    if whole and 0 <= below <= above <= MAX_FACTORIAL:
        return Fraction(math.comb(int(above), int(below)))
    above, below = _float(above), _float(below)
    if max(abs(above), abs(below)) > 10**9:
        raise UnreadableError("binomial of large numbers")
    return mp.binomial(above, below)


def _whole(op: str, values: list[Value]) -> Value:
    if op in ("gcd", "lcm"):
        if not all(isinstance(one, Fraction) and one.denominator == 1 for one in values):
            raise UnreadableError(f"{op} of numbers that are not whole")
        return Fraction((math.gcd if op == "gcd" else math.lcm)(*map(int, values)))
    if any(isinstance(one, mp.mpc) for one in values):
        raise UnreadableError(f"{op} of a complex number")
    if op in ("max", "min"):
        return (max if op == "max" else min)(values, key=_float)
    (value,) = values
    if not isinstance(value, Fraction) and abs(value) > 10**50:
        raise UnreadableError("floor of a large number")
    return (
        Fraction(int(mp.floor(value) if op == "lfloor" else mp.ceil(value)))
        if not isinstance(value, Fraction)
        else Fraction(math.floor(value) if op == "lfloor" else math.ceil(value))
    )
