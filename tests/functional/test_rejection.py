import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_grpo.functional import advantages as adv
from edge_grpo.functional.rejection import signed_reward, standardized, uniform_groups

GROUP = torch.tensor([0, 0, 1, 1, 2, 2, 3])
RIGHT = torch.tensor([True, True, False, False, True, False, False])


def every(tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor, dtype=torch.bool)


def test_signed_rewards_are_one_and_minus_one() -> None:
    assert signed_reward(RIGHT).tolist() == [1, 1, -1, -1, 1, -1, -1]


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [(True, True, [0, 1, 2, 3, 6]), (True, False, [0, 1]), (False, True, [2, 3, 6]), (False, False, [])],
)
def test_uniform_groups_match_hand_calculation(right: bool, wrong: bool, named: list[int]) -> None:
    rows = uniform_groups(signed_reward(RIGHT), RIGHT, GROUP, every(GROUP), right=right, wrong=wrong)
    assert rows.nonzero().squeeze(-1).tolist() == named


def test_unscorable_rows_do_not_make_a_group_mixed() -> None:
    scorable = torch.tensor([True, True, True, True, True, False, True])
    rows = uniform_groups(signed_reward(RIGHT), RIGHT, GROUP, scorable, wrong=False)
    assert rows.nonzero().squeeze(-1).tolist() == [0, 1, 4, 5]


def test_rewards_decide_whether_a_group_is_uniform() -> None:
    partial = torch.tensor([1.0, 1.0, 0.0, 0.2, 1.0, 0.0, 0.0])
    assert uniform_groups(partial, RIGHT, GROUP, every(GROUP)).tolist() == [True, True, *[False] * 4, True]


@given(right=st.lists(st.booleans(), min_size=7, max_size=7), order=st.permutations(range(7)))
def test_row_order_does_not_matter(right: list[bool], order: list[int]) -> None:
    flags, at = torch.tensor(right), torch.tensor(order)
    here = uniform_groups(signed_reward(flags), flags, GROUP, every(GROUP), wrong=False)
    there = uniform_groups(signed_reward(flags[at]), flags[at], GROUP[at], every(GROUP), wrong=False)
    assert torch.equal(here[at], there)


def test_standardized_rewards_match_hand_calculations() -> None:
    rewards, group = torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 0, 1, 1])

    def values(**how: bool) -> list[float]:
        return standardized(rewards, group, every(group), **how).tolist()

    assert values(center=False, scale=False) == rewards.tolist()
    assert values(center=True, scale=False) == [1.5, -0.5, -0.5, -0.5, 0, 0]
    # The first group's deviation is 1; the second's is 0 and divides nothing.
    assert values(center=False, scale=True) == pytest.approx([1, -1, -1, -1, 1, 1])
    assert values(center=True, scale=True) == pytest.approx([1.5, -0.5, -0.5, -0.5, 0, 0], rel=1e-5)


@given(rewards=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=6, max_size=6), constant=st.floats(-3, 3))
def test_centred_and_scaled_rewards_match_grpo_and_ignore_a_constant(rewards: list[float], constant: float) -> None:
    values, group = torch.tensor(rewards, dtype=torch.float64), torch.tensor([4, 4, 4, 9, 9, 9])
    both = {"center": True, "scale": True}
    got = standardized(values, group, every(group), **both)
    assert torch.allclose(got, adv.group_normalized(values, group, eps=1e-6))
    assert torch.allclose(got, standardized(values + constant, group, every(group), **both), atol=1e-6)


def test_unscorable_rows_get_zero() -> None:
    values, scorable = torch.tensor([1.0, float("nan"), -1.0]), torch.tensor([True, False, True])
    for scale in (False, True):
        got = standardized(values, torch.zeros(3).long(), scorable, center=False, scale=scale)
        assert got[1] == 0
        assert got.isfinite().all()
