import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional import preference

MARGIN = torch.tensor([-3.0, 0.0, 4.0], dtype=torch.float64)


def test_pairs_are_found_in_any_row_order() -> None:
    group = torch.tensor([5, 2, 9, 2, 5, 9])
    chosen = torch.tensor([True, False, False, True, False, True])
    first, second = preference.pair_rows(group, chosen, ~chosen)
    assert (first.tolist(), second.tolist()) == ([3, 0, 5], [1, 4, 2])
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    again = preference.pair_rows(group[order], chosen[order], ~chosen[order])
    assert [order[rows].tolist() for rows in again] == [first.tolist(), second.tolist()]


@pytest.mark.parametrize(
    ("group", "chosen"), [([1, 1, 2], [True, False, True]), ([1, 2], [True, False]), ([1] * 4, [True, False] * 2)]
)
def test_incomplete_and_doubled_pairs_are_rejected(group: list[int], chosen: list[bool]) -> None:
    flags = torch.tensor(chosen)
    assert not preference.is_paired(torch.tensor(group), flags, ~flags)[-1]
    with pytest.raises(ShapeError, match="one chosen and one rejected"):
        preference.pair_rows(torch.tensor(group), flags, ~flags)


def test_no_pairs_give_no_rows() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    assert [len(rows) for rows in preference.pair_rows(torch.tensor([1, 2]), nothing, nothing)] == [0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_sigmoid_and_robust_match_hand_calculations(smoothing: float) -> None:
    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    sigmoid = preference.sigmoid_loss(MARGIN, beta=0.5, label_smoothing=smoothing)
    robust = preference.robust_loss(MARGIN, beta=0.5, label_smoothing=smoothing)
    for x, one, other in zip((-1.5, 0.0, 2.0), sigmoid.tolist(), robust.tolist(), strict=True):
        assert one == pytest.approx(-(1 - smoothing) * log_sigmoid(x) - smoothing * log_sigmoid(-x))
        flipped = -(1 - smoothing) * log_sigmoid(x) + smoothing * log_sigmoid(-x)
        assert other == pytest.approx(flipped / (1 - 2 * smoothing))


@given(st.floats(-20, 20), st.floats(0.01, 2), st.floats(0, 0.45))
def test_robust_is_unbiased_under_flipped_labels(margin: float, beta: float, share: float) -> None:
    there, back = torch.tensor([margin], dtype=torch.float64), torch.tensor([-margin], dtype=torch.float64)
    mean = (1 - share) * preference.robust_loss(there, beta=beta, label_smoothing=share)
    mean = mean + share * preference.robust_loss(back, beta=beta, label_smoothing=share)
    assert torch.allclose(mean, preference.sigmoid_loss(there, beta=beta))


def test_hinge_and_ipo_match_hand_calculations() -> None:
    assert preference.hinge_loss(MARGIN, beta=0.5).tolist() == [2.5, 1.0, 0.0]
    assert preference.ipo_loss(MARGIN, beta=0.25).tolist() == [25.0, 4.0, 4.0]


@given(st.floats(-30, 0), st.floats(-30, 0), st.floats(-5, 5))
def test_only_differences_in_log_prob_matter(chosen: float, rejected: float, shift: float) -> None:
    one = torch.tensor([[chosen], [rejected], [-1.0], [-2.0]], dtype=torch.float64)
    other = one + torch.tensor([[shift], [shift], [-shift], [-shift]], dtype=torch.float64)
    assert torch.allclose(preference.margin(*one), preference.margin(*other))
    assert torch.allclose(preference.margin(*one), torch.tensor([chosen - rejected - 1.0], dtype=torch.float64))


def test_implicit_rewards_carry_no_gradient() -> None:
    logprob = torch.tensor([-1.0], requires_grad=True)
    reward = preference.implicit_reward(logprob, torch.tensor([-3.0]), beta=0.5)
    assert reward.tolist() == [1.0]
    assert not reward.requires_grad
