"""Collapse is max == min over scorable rows."""

import pytest
from support import group, row

from edge_grpo.base.records import Group, Row, Segment, Strategy, Verdict


@pytest.mark.parametrize(
    ("rewards", "collapsed"),
    [((0, 0, 0), True), ((2, 2), True), ((0, 1), False), ((0.3, 0.3 + 1e-7), False), ((0.1 + 0.2, 0.3), True)],
)
def test_collapse_is_exact_in_the_precision_of_the_loss(rewards: tuple[float, ...], collapsed: bool) -> None:
    assert group(*rewards).collapsed is collapsed
    assert group(*rewards).collapsed_before is collapsed


def test_unscorable_rows_do_not_count() -> None:
    rows = (row(2.0), row(2.0), row(0.0, verdict=Verdict.ERROR))
    assert Group(group(1, 1).problem, rows).collapsed
    assert Group(group(1, 1).problem, rows[2:]).collapsed


def test_a_correction_can_end_a_collapse() -> None:
    wrong, right = row(0.0), row(2.0)
    corrected = Row(right.rollout, right.grade, Strategy.ANSWER, first=(wrong.rollout, wrong.grade))
    mixed = Group(group(1, 1).problem, (corrected, wrong))
    assert mixed.collapsed_before
    assert not mixed.collapsed
    assert corrected.first_grade.reward == 0.0


def test_a_rollout_lists_its_tokens_and_segments() -> None:
    rollout = row(0.0, tokens=2).rollout
    assert rollout.completion_ids == (5, 6)
    assert rollout.segments == (Segment.SAMPLED, Segment.SAMPLED)
