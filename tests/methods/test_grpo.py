import pytest
from methods.steps import by_hand

from edge_grpo.methods.grpo import Grpo


def test_mean_over_rows_of_token_means() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    rows = [-(1.2 + 1.0) / 2, 2 * 0.8]  # clipped above, clipped below
    assert Grpo().loss(x, totals).item() == pytest.approx(sum(rows) / 2)
