r"""Equality of expressions, parsed without being executed or computed beyond a bound."""

import time

import pytest
import sympy

from edge_grpo.rewards.answers.symbolic import UnreadableError, parse_plain, same_expressions, too_large, verified


@pytest.mark.parametrize(
    ("left", "right"),
    [("2*(x+1)", "2x+2"), ("1/2", "0.5"), (r"\frac{2}{4}", "1/2"), ("x^2-1", "(x-1)(x+1)"), ("(1,2/4)", "(1,1/2)")],
)
def test_equal_expressions_are_found_equal(left: str, right: str) -> None:
    assert same_expressions(left, right)
    assert same_expressions(right, left)


@pytest.mark.parametrize(("left", "right"), [("x", "y"), ("(1,2)", "(2,1)"), ("1/3", "0.333"), ("", ""), ("(", ")")])
def test_unequal_or_unreadable_expressions_are_found_different(left: str, right: str) -> None:
    assert not same_expressions(left, right)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"1\frac{1}{2}", sympy.Rational(3, 2)),
        (r"-1\frac{1}{2}", sympy.Rational(-3, 2)),
        (r"1.5\frac{1}{2}", sympy.Rational(3, 4)),  # only a whole number and a fraction are a mixed number
        (r"x*2\frac{1}{2}", sympy.Symbol("x")),
        (r"x\frac{1}{2}", sympy.Symbol("x") / 2),
    ],
)
def test_a_whole_number_before_a_fraction_is_added_and_anything_else_is_a_factor(text: str, wanted: sympy.Expr) -> None:
    assert parse_plain(text) == wanted


@pytest.mark.parametrize("text", ["9**9**9**9", "((9!)!)!", "2**(10**10)", "10^{10^{10}}", "(" * 500, "import os"])
def test_nothing_large_or_foreign_is_computed(text: str) -> None:
    began = time.monotonic()
    if text == "import os":
        assert parse_plain(text).free_symbols  # names are symbols, nothing more
    else:
        with pytest.raises(UnreadableError):
            parse_plain(text)
    assert time.monotonic() - began < 30


def test_power_towers_are_detected_before_they_are_evaluated() -> None:
    x = sympy.Symbol("x")
    assert too_large(sympy.Pow(5, sympy.Pow(5, sympy.Pow(5, 5, evaluate=False), evaluate=False), evaluate=False))
    assert not too_large(x**3 + sympy.Integer(2) ** 64)
    assert not too_large("text")


def test_math_verify_has_the_last_word() -> None:
    assert verified(r"\{1,2\}", r"\{2,1\}")
    assert not verified("3.14", r"\pi")
