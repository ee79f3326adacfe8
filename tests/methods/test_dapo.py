import pytest
from methods.steps import by_hand, make_group

from edge_grpo.methods import TopUp
from edge_grpo.methods.dapo import Dapo


def test_mean_over_tokens_with_a_higher_clip() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    assert Dapo().loss(x, totals).item() == pytest.approx((-1.28 - 1.0 + 2 * 0.8) / 3)


def test_dynamic_sampling_is_on_and_bounded() -> None:
    top_up = Dapo().needs.top_up
    assert top_up is not None
    assert top_up.max_rounds == 10
    assert not top_up.fill
    assert Dapo(top_up=TopUp(max_rounds=0)).needs.top_up.max_rounds == 0


def test_groups_with_equal_rewards_are_not_useful() -> None:
    assert Dapo().useful(make_group([True, False]))
    assert not Dapo().useful(make_group([False, False]))
