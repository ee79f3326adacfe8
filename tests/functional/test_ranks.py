import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_grpo.functional.advantages import group_normalized
from edge_grpo.functional.ranks import group_rank, unlikeliness_reward


def every(tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor, dtype=torch.bool)


@st.composite
def scored_groups(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, scores (with ties) and groups, rows in mixed order."""
    count = draw(st.integers(2, 12))
    group = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    scores = draw(st.lists(st.sampled_from([-3.0, -2.5, -1.0, -0.1]), min_size=count, max_size=count))
    rewards = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64), torch.tensor(group)


def test_ranks_match_hand_calculation() -> None:
    scores, group = torch.tensor([-1.0, -9.0, -2.0, -2.0, -5.0, -7.0]), torch.tensor([0, 1, 0, 0, 0, 1])
    assert group_rank(scores, group, every(group)).tolist() == [3.0, 0.0, 1.5, 1.5, 0.0, 1.0]


def test_excluded_rows_occupy_no_rank() -> None:
    scores, include = torch.tensor([-1.0, float("nan"), -2.0]), torch.tensor([True, False, True])
    assert group_rank(scores, torch.zeros(3).long(), include).tolist() == [1.0, 0.0, 0.0]


@given(data=scored_groups())
def test_ranks_of_a_group_sum_to_a_triangular_number(data: tuple[Tensor, Tensor, Tensor]) -> None:
    _, scores, group = data
    ranks = group_rank(scores, group, every(group))
    for number in group.unique():
        size = int((group == number).sum())
        assert ranks[group == number].sum() == size * (size - 1) / 2


@given(data=scored_groups(), seed=st.integers(0, 99), constant=st.floats(-3, 3))
def test_neither_row_order_nor_a_constant_shift_matters(
    data: tuple[Tensor, Tensor, Tensor], seed: int, constant: float
) -> None:
    rewards, scores, group = data
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed))
    here = unlikeliness_reward(rewards, scores, group, every(group), penalty=0.25)
    there = unlikeliness_reward(rewards[order], scores[order], group[order], every(group), penalty=0.25)
    assert torch.equal(here[order], there)
    near = unlikeliness_reward(rewards, (scores + constant).round(decimals=6), group, every(group), penalty=0.25)
    assert torch.equal(here, near)


@given(data=scored_groups(), penalty=st.floats(0, 1), first=st.sampled_from([0, 1]))
def test_rewards_stay_within_their_bounds(data: tuple[Tensor, Tensor, Tensor], penalty: float, first: int) -> None:
    rewards, scores, group = data
    got = unlikeliness_reward(rewards, scores, group, every(group), penalty=penalty, first_rank=first)
    assert (got[rewards == 0] == 0).all()
    assert (got <= rewards).all()
    assert (got >= rewards * (1 - penalty) - 1e-12).all()
    assert torch.equal(unlikeliness_reward(rewards, scores, group, every(group), penalty=0.0), rewards)


@pytest.mark.parametrize(("first", "wanted"), [(0, [1.0, 0.875, 0.0, 0.8125]), (1, [0.9375, 0.8125, 0.0, 0.75])])
def test_both_offsets_match_hand_calculations(first: int, wanted: list[float]) -> None:
    rewards, scores = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([-9.0, -2.0, -3.0, -1.0])
    got = unlikeliness_reward(rewards, scores, torch.zeros(4).long(), every(rewards), penalty=0.25, first_rank=first)
    assert got.tolist() == wanted


@pytest.mark.parametrize("penalty", [0.05, 0.25, 0.9])
def test_ranks_alone_drive_an_all_right_group_at_any_penalty(penalty: float) -> None:
    scores, group = torch.tensor([-4.0, -3.0, -2.0, -1.0], dtype=torch.float64), torch.zeros(4).long()
    shaped = unlikeliness_reward(torch.ones_like(scores), scores, group, every(group), penalty=penalty)
    got = group_normalized(shaped, group, eps=1e-6)
    assert got.tolist() == pytest.approx([1.1619, 0.3873, -0.3873, -1.1619], abs=1e-3)
