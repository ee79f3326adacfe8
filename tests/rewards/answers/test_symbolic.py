"""Sums, integrals and limits through math-verify, and what it must not be asked."""

import pytest
import sympy

from edge_grpo.rewards.answers.symbolic import too_large, verified


def test_power_towers_are_detected_before_they_are_evaluated() -> None:
    x = sympy.Symbol("x")
    assert too_large(sympy.Pow(5, sympy.Pow(5, sympy.Pow(5, 5, evaluate=False), evaluate=False), evaluate=False))
    assert not too_large(x**3 + sympy.Integer(2) ** 64)
    assert not too_large("text")


def test_sums_and_integrals_are_evaluated() -> None:
    assert verified(r"\int_0^1 3x^2\,dx", "1")
    assert verified("55", r"\sum_{k=1}^{10} k")
    assert not verified(r"\sum_{k=1}^{10} k", "54")


@pytest.mark.parametrize(
    "text",
    [
        r"1+\foo{\int_0^1 2x\,dx}",
        r"\int_0^1 2x\,dx \text{ or } 2",
        r"(\int_0^1 2x\,dx",
        r"\int_0^1 2x\,dx+\overline{z}",
    ],
)
def test_a_text_that_math_verify_would_read_in_part_decides_nothing(text: str) -> None:
    assert not verified(text, "1")
    assert not verified("1", text)
