import pytest
import torch

from edge_grpo.functional.dual_clip import dual_clipped, dual_clipped_loss
from edge_grpo.functional.losses import clipped_loss

RATIO = torch.tensor([[0.5, 1.0, 1.25, 2.0, 5.0]], dtype=torch.float64)
MASK = torch.ones(1, 5, dtype=torch.bool)
SHAPE = {"clip_low": 0.2, "clip_high": 0.3}


@pytest.mark.parametrize(
    ("advantage", "wanted"), [(1.0, [-0.5, -1.0, -1.25, -1.3, -1.3]), (-1.0, [0.8, 1.0, 1.25, 2.0, 3.0])]
)
def test_dual_clipped_loss_matches_hand_calculation(advantage: float, wanted: list[float]) -> None:
    got = dual_clipped_loss(RATIO.log(), torch.full_like(RATIO, advantage), MASK, cap=3.0, **SHAPE)
    assert got[0].tolist() == pytest.approx(wanted)


def test_a_cap_inside_the_clip_range_still_bounds_the_loss() -> None:
    got = dual_clipped_loss(RATIO.log(), -torch.ones_like(RATIO), MASK, cap=1.1, **SHAPE)
    assert got[0].tolist() == pytest.approx([0.8, 1.0, 1.1, 1.1, 1.1])
    gained = dual_clipped_loss(RATIO.log(), torch.ones_like(RATIO), MASK, cap=1.1, **SHAPE)
    assert gained[0].tolist() == pytest.approx([-0.5, -1.0, -1.25, -1.3, -1.3])  # same as without the cap


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("cap", [1.3, 3.0, None])
def test_a_cap_beyond_the_clip_range_equals_capping_the_ratio(sign: float, cap: float | None) -> None:
    mine, theirs = (RATIO.log().requires_grad_() for _ in range(2))
    got = dual_clipped_loss(mine, torch.full_like(RATIO, sign), MASK, cap=cap, **SHAPE)
    wanted = clipped_loss(theirs, torch.full_like(RATIO, sign), MASK, delta=cap, **SHAPE)
    assert torch.equal(got, wanted)
    got.sum().backward()
    wanted.sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert torch.equal(mine.grad, theirs.grad)


def test_flags_mark_where_the_gradient_vanishes() -> None:
    log_ratio = RATIO.log().requires_grad_()
    advantages = -torch.ones_like(RATIO)
    dual_clipped_loss(log_ratio, advantages, MASK, cap=3.0, **SHAPE).sum().backward()
    assert dual_clipped(log_ratio, advantages, cap=3.0, **SHAPE)[0].tolist() == [False, False, False, False, True]
    assert log_ratio.grad is not None
    assert log_ratio.grad[0, -1] == 0
    assert not dual_clipped(log_ratio, -advantages, cap=3.0, **SHAPE).any()


def test_garbage_outside_the_mask_changes_nothing() -> None:
    garbage = torch.full_like(RATIO, torch.nan)
    mask = torch.zeros_like(MASK)
    assert dual_clipped_loss(torch.zeros_like(RATIO), garbage, mask, cap=3.0, **SHAPE).tolist() == [[0.0] * 5]
