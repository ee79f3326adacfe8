import pytest
from methods.steps import by_hand

from edge_grpo.methods.bnpo import Bnpo


def test_mean_over_tokens() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    assert Bnpo().loss(x, totals).item() == pytest.approx((-1.2 - 1.0 + 2 * 0.8) / 3)
