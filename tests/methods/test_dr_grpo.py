import pytest
from methods.steps import by_hand

from edge_grpo.methods.dr_grpo import DrGrpo


def test_sum_over_the_budget() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    assert DrGrpo().loss(x, totals).item() == pytest.approx((-1.2 - 1.0 + 2 * 0.8) / (2 * 10))


def test_the_deviation_of_the_group_does_not_divide() -> None:
    assert DrGrpo().scale == "none"
