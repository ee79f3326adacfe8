"""Metrics are pairs that add up."""

import math

from edge_grpo.base.metrics import mean_of, means, merge, share


def test_merging_adds_pairs() -> None:
    parts = [{"a": mean_of([1, 2])}, {"a": mean_of([6]), "b": share([True, False])}]
    assert means(merge(*parts)) == {"a": 3.0, "b": 0.5}
    assert merge() == {}


def test_the_mean_of_nothing_is_nan_not_zero() -> None:
    assert math.isnan(means({"a": mean_of([])})["a"])
