import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional import advantages as adv

NAN = float("nan")
SCALES: list[Callable[..., Tensor]] = [adv.group_centered, adv.group_normalized, adv.batch_scaled]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards and group numbers, every group with two to five rows."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    group = [number for number, size in enumerate(sizes) for _ in range(size)]
    rewards = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), min_size=len(group), max_size=len(group)))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(group)


def test_advantages_match_hand_calculations() -> None:
    rewards, group = torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64), torch.zeros(4).long()
    assert adv.group_centered(rewards, group).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert adv.group_normalized(rewards, group)[0].item() == pytest.approx(0.75 / (0.5 + 1e-4))
    both = torch.cat([rewards, rewards + 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert adv.batch_scaled(*both)[0].item() == pytest.approx(0.75 / (both[0].std().item() + 1e-4))


@pytest.mark.parametrize("scaled", SCALES)
@given(data=groups(), seed=st.integers(0, 99))
def test_row_order_does_not_matter(scaled: Callable[..., Tensor], data: tuple[Tensor, Tensor], seed: int) -> None:
    rewards, group = data
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(scaled(rewards, group)[order], scaled(rewards[order], group[order]), atol=1e-12)


@pytest.mark.parametrize("scaled", SCALES)
@given(data=groups(), constant=st.floats(-3, 3))
def test_adding_a_constant_changes_nothing(
    scaled: Callable[..., Tensor], data: tuple[Tensor, Tensor], constant: float
) -> None:
    rewards, group = data
    assert torch.allclose(scaled(rewards + constant, group), scaled(rewards, group), atol=1e-9)


@pytest.mark.parametrize("scaled", SCALES)
@given(data=groups())
def test_advantages_sum_to_zero_in_each_group(scaled: Callable[..., Tensor], data: tuple[Tensor, Tensor]) -> None:
    rewards, group = data
    sums = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add(0, group, scaled(rewards, group))
    assert sums.abs().max() < 1e-9


@pytest.mark.parametrize("scaled", SCALES)
def test_collapsed_groups_get_exactly_zero(scaled: Callable[..., Tensor]) -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.0, 1.0, 0.5])  # the mean of three 0.1 is not 0.1
    assert scaled(rewards, torch.tensor([0, 0, 0, 1, 1, 1]))[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("scaled", SCALES)
def test_unscorable_rows_are_ignored(scaled: Callable[..., Tensor]) -> None:
    group = torch.tensor([0, 0, 0, 1, 1])
    scorable = torch.tensor([True, False, True, True, True])
    got = scaled(torch.tensor([1.0, NAN, 0.0, 1.0, 0.0]), group, scorable)
    without = scaled(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1]))
    assert got[1] == 0
    assert torch.allclose(got[scorable], without)


@pytest.mark.parametrize("scaled", SCALES)
def test_a_lone_scorable_row_gets_zero(scaled: Callable[..., Tensor]) -> None:
    got = scaled(torch.tensor([1.0, NAN]), torch.tensor([0, 0]), torch.tensor([True, False]))
    assert got.tolist() == [0, 0]


@pytest.mark.parametrize("scaled", SCALES)
def test_a_group_of_one_is_rejected(scaled: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"groups \[3\] have one rollout each.*Set rollout.group_size >= 2"):
        scaled(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2, 3, 2]))


def test_weighted_reward_skips_unscored_parts() -> None:
    parts = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]])
    assert adv.weighted_reward(parts, torch.tensor([1.0, 0.5])).nan_to_num(-1).tolist() == [2, 1, -1]


def test_gdpo_matches_hand_calculation() -> None:
    parts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, NAN], [0.0, NAN]], dtype=torch.float64)
    got = adv.normalized_then_summed(parts, torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    z = 0.5 / (math.sqrt(0.5) + 1e-4)
    combined = torch.tensor([2 * z - z, z - 2 * z, 2 * z, -2 * z], dtype=torch.float64)
    assert torch.allclose(got, combined / (combined.std() + 1e-4))


def test_gdpo_gives_zero_to_rows_without_a_score() -> None:
    parts = torch.tensor([[1.0], [NAN], [0.0]])
    got = adv.normalized_then_summed(parts, torch.ones(1), torch.zeros(3).long())
    assert got[1] == 0
    assert got[0] == -got[2] > 0


def test_collapse_counts_groups_not_rows() -> None:
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, NAN])
    group = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])
    scorable = ~rewards.isnan()
    assert adv.collapsed(rewards, group, scorable).tolist() == [False, False, True, True, True, True, True, True]
    assert adv.collapse_ratio(rewards, group, scorable).item() == pytest.approx(2 / 3)


def test_variance_within_groups_is_averaged_over_groups() -> None:
    keep = torch.tensor([True, True, True, True, False])
    got = adv.group_variance(torch.tensor([1.0, -1.0, 0.0, 0.0, 99.0]), torch.tensor([0, 0, 1, 1, 1]), keep)
    assert got.item() == pytest.approx(1.0)
    assert adv.group_variance(torch.ones(2), torch.zeros(2).long(), torch.zeros(2).bool()) == 0


@pytest.mark.parametrize(
    ("scaled", "divisor"), [(adv.group_centered, 1.0), (adv.group_normalized, 1 + 1e-4), (adv.batch_scaled, None)]
)
def test_a_group_of_one_can_be_zero_or_raw(scaled: Callable[..., Tensor], divisor: float | None) -> None:
    rewards, group = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64), torch.tensor([5, 7, 7])
    zero, raw = (scaled(rewards, group, singleton=name) for name in ("zero", "raw"))
    assert zero[0] == 0
    assert raw[0] == 3 / (rewards.std() + 1e-4 if divisor is None else divisor)
    assert torch.equal(zero[1:], raw[1:])


def test_the_only_scorable_row_counts_as_a_group_of_one() -> None:
    rewards, group = torch.tensor([3.0, NAN]), torch.tensor([5, 5])
    got = adv.group_centered(rewards, group, torch.tensor([True, False]), singleton="raw")
    assert got.tolist() == [3.0, 0.0]
