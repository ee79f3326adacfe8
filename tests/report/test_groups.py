"""The kinds of groups."""

import math

import pytest

from edge_grpo.report.groups import DEAD, Kind, kind_of, near_bound


@pytest.mark.parametrize(
    ("rewards", "correct", "kind"),
    [
        ([0, 1], [False, True], Kind.USEFUL),
        ([0, 0], [False, False], Kind.ALL_WRONG),
        ([1, 1], [True, True], Kind.ALL_RIGHT),
        ([1, 1], [True, False], Kind.EQUAL),
        ([1, 1], [None, None], Kind.EQUAL),
        ([1, None], [True, None], Kind.UNSCORABLE),
        ([None, None], [None, None], Kind.UNSCORABLE),
        ([], [], Kind.UNSCORABLE),
        ([0, 0, None], [False, False, None], Kind.ALL_WRONG),
        ([0, 0.01], [False, False], Kind.NEAR_CONSTANT),
        ([0, 0.0101], [False, False], Kind.USEFUL),
    ],
)
def test_kinds(rewards: list[float | None], correct: list[bool | None], kind: Kind) -> None:
    assert kind_of(rewards, correct, near=0.01) is kind


def test_what_is_nearly_constant_follows_the_range_of_rewards() -> None:
    assert math.isclose(near_bound([-1, 1]), 0.02)
    assert near_bound([]) == near_bound([0.5]) == 0
    assert kind_of([0.5, 0.5], [None, None], near=near_bound([0.5, 0.5])) in DEAD


@pytest.mark.parametrize("outliers", [[-200.0], [200.0], [-200.0, 1e6]])
@pytest.mark.parametrize("right", [1, 30, 99])
def test_outliers_do_not_make_groups_nearly_constant(outliers: list[float], right: int) -> None:
    rewards = [*([1.0] * right), *([0.0] * (100 - right)), *([1.0, 0.0] if right in (1, 99) else []), *outliers]
    near = near_bound(rewards)
    assert kind_of([0, 1], [False, True], near=near) is Kind.USEFUL
    assert kind_of([0, 0.009], [False, False], near=near) is Kind.NEAR_CONSTANT, "however many rewards are equal"
