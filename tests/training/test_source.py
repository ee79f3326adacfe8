"""Stored pairs as the groups of a step."""

import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Pair
from edge_grpo.data.pairs import EncodedPair
from edge_grpo.training.source import StoredPairs


def pair(number):
    return EncodedPair(Pair(str(number), "q", "yes", "no"), (1, 2), (3, number, 9), (4, 9))


def test_every_pair_is_a_group_of_right_and_wrong():
    made = StoredPairs(stop_id=9).collect(iter([pair(5), pair(6), pair(7)]), num_groups=2)
    assert made.num_prompts == 2
    assert [group.rows[0].rollout.completion_ids for group in made.groups] == [(3, 5, 9), (3, 6, 9)]
    assert [[row.grade.correct for row in group.rows] for group in made.groups] == [[True, False]] * 2
    assert made.metrics["tokens"] == (0.0, 1.0)


def test_a_source_that_runs_dry_is_an_error():
    with pytest.raises(DataError, match="only 1 of 2"):
        StoredPairs(stop_id=9).collect(iter([pair(5)]), num_groups=2)
