import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.functional.advantages import group_centered, group_normalized
from edge_grpo.functional.relative import relative_reward, standardized_reward

EVERY = torch.ones(4, dtype=torch.bool)
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
ONE_GROUP = torch.zeros(4, dtype=torch.long)


def test_population_deviation_matches_hand_calculation() -> None:
    got = standardized_reward(REWARDS, ONE_GROUP, EVERY, eps=0.0, ddof=0)
    assert got.tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])  # sqrt((1-p)/p) and -sqrt(p/(1-p)), p = 1/4


def test_counting_all_rows_gives_the_group_relative_advantage() -> None:
    group = torch.tensor([0, 1, 0, 1])
    rewards = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    assert torch.equal(relative_reward(rewards, group, EVERY), group_centered(rewards, group))
    sample = standardized_reward(rewards, group, EVERY, eps=1e-4, ddof=1)
    assert torch.allclose(sample, group_normalized(rewards, group, eps=1e-4), atol=1e-15)


def test_statistics_of_counted_rows_apply_to_every_row() -> None:
    rewards = torch.tensor([1.0, 0.0, 4.0, 4.0])
    counted = torch.tensor([True, True, False, False])
    assert relative_reward(rewards, ONE_GROUP, counted).tolist() == [0.5, -0.5, 3.5, 3.5]


@pytest.mark.parametrize("counted", [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
def test_none_one_or_equal_counted_rewards_give_zero(counted: list[int]) -> None:
    flags = torch.tensor(counted).bool()
    assert relative_reward(REWARDS, ONE_GROUP, flags).tolist() == [0] * 4
    for ddof in (0, 1):
        assert standardized_reward(REWARDS, ONE_GROUP, flags, eps=0.0, ddof=ddof).tolist() == [0] * 4


def test_equal_rewards_give_exactly_zero_despite_rounding() -> None:
    rewards, group = torch.full((24,), 0.1), torch.zeros(24).long()
    assert standardized_reward(rewards, group, torch.ones(24).bool(), eps=1e-6).tolist() == [0] * 24


@given(st.lists(st.integers(0, 4), min_size=3, max_size=9), st.integers(-5, 5), st.randoms(use_true_random=False))
def test_neither_a_constant_nor_row_order_matters(rewards: list[int], shift: int, rng: object) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    group = torch.arange(len(values)) % 2
    counted = torch.arange(len(values)) % 4 != 3
    got = standardized_reward(values, group, counted)
    assert torch.allclose(standardized_reward(values + shift, group, counted), got, atol=1e-9)
    order = list(range(len(values)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert torch.allclose(standardized_reward(values[order], group[order], counted[order]), got[order], atol=1e-12)
    for index in range(2):
        assert got[(group == index) & counted].sum().item() == pytest.approx(0, abs=1e-9)
