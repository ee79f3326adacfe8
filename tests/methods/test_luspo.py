import math

import pytest
from methods.steps import by_hand

from edge_grpo.methods.luspo import Luspo


def test_rows_are_weighted_by_length() -> None:
    x, totals = by_hand([[1.5, 0.6], [0.5]], [1.0, -2.0])
    ratio = math.sqrt(1.5 * 0.6)
    got = Luspo(clip_low=0.2, clip_high=0.2).loss(x, totals).item()
    assert got == pytest.approx((-2 * ratio + 2 * 0.8) / 2)
