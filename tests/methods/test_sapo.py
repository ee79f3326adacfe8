import math

import pytest
from methods.steps import by_hand

from edge_grpo.methods.sapo import Sapo


def gate(ratio: float, temperature: float) -> float:
    return 4 / temperature / (1 + math.exp(-temperature * (ratio - 1)))


def test_a_gate_in_place_of_the_clip() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    rows = [-(gate(1.5, 1.0) + gate(1.0, 1.0)) / 2, 2 * gate(0.5, 1.05)]
    assert Sapo().loss(x, totals).item() == pytest.approx(sum(rows) / 2)
