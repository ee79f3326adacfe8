r"""Plain numbers parsed exactly: integers, decimals and fractions, compared without floating point or evaluation."""

import re
from fractions import Fraction

__all__ = ["rational", "same_rationals"]

DIGITS = r"[0-9]{1,20}"
DECIMAL = re.compile(rf"\s*([+-]?)({DIGITS}(?:\.[0-9]{{0,20}})?|\.{DIGITS})\s*")
RATIO = re.compile(rf"\s*([+-]?)\s*({DIGITS})\s*/\s*({DIGITS})\s*")
PART = rf"(?:\{{\s*([+-]?{DIGITS})\s*\}}|([0-9]))"
FRACTION = re.compile(rf"\s*([+-]?)\s*\\[dt]?frac\s*{PART}\s*{PART}\s*")
MAX_LENGTH = 100  # characters; longer than any of these with ordinary spacing
NEAR_SHARE = Fraction(2, 10**6)  # a decimal of 7 digits may stand for a fraction, see `value`


def rational(text: str) -> Fraction | None:
    r"""The value of a plain integer, decimal or fraction of at most 20 digits per part; None for any other text.

    Example:
        >>> rational("-0.50"), rational(" 3 / 4"), rational(r"-\dfrac{3}{4}"), rational(r"\frac34")
        (Fraction(-1, 2), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 4))
        >>> rational("50%"), rational("1,000"), rational("1/0"), rational("x")
        (None, None, None, None)
    """
    if len(text) > MAX_LENGTH:
        return None
    value: Fraction | None
    if match := DECIMAL.fullmatch(text):
        value = Fraction(match[2])
    elif match := RATIO.fullmatch(text):
        value = _ratio(match[2], match[3])
    elif match := FRACTION.fullmatch(text):
        value = _ratio(match[2] or match[3], match[4] or match[5])
    else:
        return None
    return -value if value is not None and match[1] == "-" else value


def _ratio(above: str, below: str) -> Fraction | None:
    return Fraction(int(above), int(below)) if int(below) else None


def same_rationals(left: Fraction, right: Fraction) -> bool | None:
    """True if they are equal; False if their relative difference is above 2e-6; None in between.

    Example:
        >>> third = Fraction(1, 3)
        >>> [same_rationals(third, other) for other in (Fraction(2, 6), Fraction("0.333"), Fraction("0.3333333"))]
        [True, False, None]
    """
    if left == right:
        return True
    return False if abs(left - right) > NEAR_SHARE * max(abs(left), abs(right)) else None
