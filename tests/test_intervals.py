"""Intervals hold what they should hold, as often as they should."""

import random

import pytest

from edge_grpo.intervals import bootstrap, mean_interval, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7)])
def test_wilson_holds_the_share(k, n):
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = random.Random(0)
    held = 0
    for _ in range(200):
        values = [rng.random() ** 2 for _ in range(60)]  # mean 1/3
        low, high = bootstrap([values], [1.0])
        held += low <= 1 / 3 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_bootstrap_draws_within_parts():
    low, high = bootstrap([[0.0] * 50, [1.0] * 50], [0.5, 0.5])  # no spread within either part
    assert low == high == 0.5
    low, high = bootstrap([[0.0, 1.0] * 25, [1.0] * 50], [0.5, 0.5])
    assert 0.65 < low < 0.75 < high < 0.85


def test_the_bootstrap_repeats():
    values = [[0.1, 0.5, 0.9, 0.25], [0.0, 1.0, 0.5]]
    assert bootstrap(values, [0.5, 0.5]) == bootstrap(values, [0.5, 0.5])


def test_an_interval_of_shares_is_wilsons_and_else_a_bootstrap():
    assert mean_interval([0.0, 0.0, 1.0]) == wilson(1, 3)
    assert mean_interval([0.0] * 8) == wilson(0, 8)
    low, high = mean_interval([0.25, 0.5, 1.0, 0.0] * 10)
    assert (low, high) == bootstrap([[0.25, 0.5, 1.0, 0.0] * 10], [1.0])
