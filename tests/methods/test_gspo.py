import math

import pytest
from methods.steps import by_hand

from edge_grpo.methods.gspo import Gspo


def test_one_ratio_a_row() -> None:
    x, totals = by_hand([[1.5, 0.6], [0.5]], [1.0, -2.0])
    ratio = math.sqrt(1.5 * 0.6)  # inside a wide clip range
    got = Gspo(clip_low=0.2, clip_high=0.2).loss(x, totals).item()
    assert got == pytest.approx((-ratio + 2 * 0.8) / 2)


def test_a_clipped_row_has_no_gradient_at_all() -> None:
    x, totals = by_hand([[1.5, 1.2], [1.0]], [1.0, 1.0])
    Gspo().loss(x, totals).backward()
    assert x.logprobs.grad is not None
    assert x.logprobs.grad[0].abs().max() == 0
    assert x.logprobs.grad[1, 0].item() == pytest.approx(-0.5)


def test_published_clip_range() -> None:
    assert (Gspo().clip_low, Gspo().clip_high) == (3e-4, 4e-4)
