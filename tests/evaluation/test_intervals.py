"""Intervals hold what they should hold, as often as they should."""

import random

import pytest

from edge_grpo.evaluation.intervals import bootstrap, combined, difference_interval, mean_interval, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7)])
def test_wilson_holds_the_share(k, n):
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = random.Random(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap([rng.random() ** 2 for _ in range(60)])  # mean 1/3
        held += low <= 1 / 3 <= high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize(("mean", "count"), [(0.02, 30), (0.05, 30), (0.02, 83), (0.3, 30)])
def test_intervals_hold_their_mean_where_right_answers_are_rare_too(mean, count):
    """Eight answers a problem; problems as different as they are on hard benchmarks."""
    rng = random.Random(1)
    held = 0
    for _ in range(150):
        rates = [rng.betavariate(mean, 1 - mean) for _ in range(count)]
        low, high = mean_interval([sum(rng.random() < rate for _ in range(8)) / 8 for rate in rates])
        held += low <= mean <= high
    assert held / 150 >= 0.88  # the draws are few


def test_more_evidence_does_not_shrink_an_interval_to_nothing():
    nothing, little = mean_interval([0.0] * 30), mean_interval([0.0] * 29 + [1 / 8])
    assert nothing == wilson(0, 30)
    assert little[1] > 0.9 * nothing[1]


def test_an_interval_of_shares_is_wilsons_and_else_a_bootstrap():
    assert mean_interval([0.0, 0.0, 1.0]) == wilson(1, 3)
    assert mean_interval([0.0] * 8) == wilson(0, 8)
    values = [0.25, 0.5, 1.0, 0.0] * 10
    assert mean_interval(values) == bootstrap(values) == bootstrap(list(values))


def test_equal_models_may_still_differ():
    low, high = difference_interval([0.0] * 3)
    assert low == -high < -0.5
    low, high = difference_interval([0.0] * 199 + [1.0])
    assert low < 0 < 1 / 200 < high < 0.03


def test_intervals_of_differences_hold_them():
    rng = random.Random(2)
    held = 0
    for _ in range(200):
        draws = [rng.random() for _ in range(100)]
        low, high = difference_interval([float(x < 0.08) - float(x > 0.97) for x in draws])  # mean 0.05
        held += low <= 0.05 <= high
    assert held / 200 >= 0.9


def test_a_combination_of_one_is_itself_and_of_more_is_narrower():
    assert combined([0.5], [(0.3, 0.8)], [1.0]) == (0.3, 0.8)
    low, high = combined([0.5, 0.0], [(0.3, 0.8), (0.0, 0.4)], [0.5, 0.5])
    assert low == 0.25 - 0.1
    assert high == pytest.approx(0.25 + (0.15**2 + 0.2**2) ** 0.5)
