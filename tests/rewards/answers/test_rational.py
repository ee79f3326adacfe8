"""Plain numbers parsed exactly, and the later stages' verdicts on the same numbers."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_grpo.rewards.answers.agreement import agree
from edge_grpo.rewards.answers.canonical import spelled
from edge_grpo.rewards.answers.equality import decide_by_text
from edge_grpo.rewards.answers.rational import rational, same_rationals
from edge_grpo.rewards.answers.reading import read

SIGNS = st.sampled_from(["", "-", "+"])
WHOLE = st.integers(0, 2000)
BELOW = st.integers(1, 60)
DECIMALS = st.builds("{}{}.{}".format, SIGNS, st.integers(0, 99), st.text("0123456789", min_size=1, max_size=8))
RATIOS = st.builds("{}{}/{}".format, SIGNS, WHOLE, BELOW)
COMMANDS = st.sampled_from([r"\frac", r"\dfrac", r"\tfrac"])
FRACTIONS = st.builds("{}{}{{{}}}{{{}}}".format, SIGNS, COMMANDS, WHOLE, BELOW)
SHORT = st.builds(r"{}\frac{}{}".format, SIGNS, st.integers(1, 9), st.integers(1, 9))
NUMBERS = st.one_of(st.integers(-3000, 3000).map(str), DECIMALS, RATIOS, FRACTIONS, SHORT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("-007", Fraction(-7)),
        ("7.", Fraction(7)),
        (".5", Fraction(1, 2)),
        ("+2.50", Fraction(5, 2)),
        (" 6 / 4 ", Fraction(3, 2)),
        ("- 1/2", Fraction(-1, 2)),
        (r"-\frac{-3}{4}", Fraction(3, 4)),
        (r"\frac3{4}", Fraction(3, 4)),
        (r"\dfrac{ 3 }{ 4 }", Fraction(3, 4)),
        (r"\tfrac34", Fraction(3, 4)),
        (r"\frac{3}{-4}", Fraction(-3, 4)),
    ],
)
def test_plain_numbers_are_parsed_exactly(text: str, value: Fraction) -> None:
    assert rational(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "-", "x", "1,000", "50%", "5 cm", "1/0", r"\frac{1}{0}", r"1\frac{1}{2}", "1 1/2", "2^3", "1e3"),
        *("٣", "½", "1/2/3", r"\frac{1}{2}}", "9" * 21, "0." + "1" * 21, " " * 200 + "7", "1_000", "0x1", "nan"),
    ],
)
def test_anything_else_is_not_a_plain_number(text: str) -> None:
    assert rational(text) is None


def test_close_numbers_are_left_to_the_later_stages() -> None:
    third = Fraction(1, 3)
    assert same_rationals(third, Fraction(1, 3)) is True
    assert same_rationals(third, Fraction("0.333")) is False
    assert same_rationals(third, Fraction("0.3333333")) is None
    large = Fraction(10**15)
    assert same_rationals(large, large + 1) is None
    assert same_rationals(Fraction("1e-7"), Fraction("2e-7")) is False
    assert same_rationals(Fraction(0), Fraction("1e-19")) is False
    assert decide_by_text("1000000000000000", "1000000000000001") is False  # integers are compared by their digits


@settings(max_examples=80)
@given(NUMBERS, NUMBERS)
def test_the_later_stages_agree(left: str, right: str) -> None:
    decided = decide_by_text(left, right)
    if decided is not None:
        assert decided == agree(read(spelled(left)), read(spelled(right)))


@settings(max_examples=40)
@given(
    st.fractions(-(10**9), 10**9, max_denominator=64),
    st.sampled_from([r"\frac{%d}{%d}", "%d/%d", r"\dfrac{%d}{%d}"]),
    st.integers(1, 9),
)
def test_equal_values_are_equal_in_every_stage(value: Fraction, form: str, factor: int) -> None:
    plain, other = str(value), form % (value.numerator * factor, value.denominator * factor)
    assert decide_by_text(plain, other)
    assert agree(read(spelled(plain)), read(spelled(other)))
