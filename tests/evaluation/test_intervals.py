"""Intervals have their nominal coverage."""

import math
import random
import tracemalloc

import pytest

from edge_grpo.evaluation.intervals import (
    bootstrap,
    combined,
    difference_interval,
    mean_interval,
    t_interval,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7)])
def test_wilson_holds_the_share(k: int, n: int) -> None:
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_by_hand() -> None:
    z, p, n = 1.959963984540054, 0.3, 10
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert wilson(3, 10) == pytest.approx((low, high), abs=1e-14)


def test_a_fraction_of_a_success_widens_and_a_rounding_error_does_not() -> None:
    assert wilson(2.25, 8) == (wilson(2, 8)[0], wilson(3, 8)[1])
    assert wilson(3 - 1e-15, 8) == wilson(3 + 1e-15, 8) == wilson(3, 8)


def test_the_bootstrap_has_about_its_nominal_coverage() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap([rng.random() ** 2 for _ in range(60)])  # mean 1/3
        held += low <= 1 / 3 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_a_bootstrap_of_many_values_takes_little_memory() -> None:
    values = [float(i % 7) for i in range(100_000)]
    tracemalloc.start()
    try:
        low, high = bootstrap(values, resamples=200)  # 160 MB of indices if drawn at once
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert low < sum(values) / len(values) < high
    assert peak < 100e6


def test_equal_values_have_a_bootstrap_of_no_width() -> None:
    assert bootstrap([0.1] * 40) == mean_interval([0.1] * 40) == (0.1, 0.1)
    assert bootstrap([0.5]) == (0.5, 0.5)


@pytest.mark.parametrize(("mean", "count"), [(0.02, 30), (0.05, 30), (0.02, 83), (0.3, 30)])
def test_intervals_hold_their_mean_where_right_answers_are_rare_too(mean: float, count: int) -> None:
    """Eight answers per problem; problems that vary in difficulty as on hard benchmarks."""
    rng = random.Random(1)
    held = 0
    for _ in range(150):
        rates = [rng.betavariate(mean, 1 - mean) for _ in range(count)]
        low, high = mean_interval([sum(rng.random() < rate for _ in range(8)) / 8 for rate in rates])
        held += low <= mean <= high
    assert held / 150 >= 0.88  # the draws are few


def test_more_evidence_does_not_shrink_an_interval_to_nothing() -> None:
    nothing, little = mean_interval([0.0] * 30), mean_interval([0.0] * 29 + [1 / 8])
    assert nothing == wilson(0, 30)
    assert little[1] > 0.9 * nothing[1]


def test_rare_wrong_answers_count_as_much_as_rare_right_ones() -> None:
    nearly = [1.0] * 28 + [7 / 8, 1 / 2]
    assert mean_interval(nearly) == wilson(sum(nearly), 30) != bootstrap(nearly)
    low, high = mean_interval([1 - value for value in nearly])
    assert mean_interval(nearly) == pytest.approx((1 - high, 1 - low))


def test_an_interval_of_shares_is_wilsons_and_else_a_bootstrap() -> None:
    assert mean_interval([0.0, 0.0, 1.0]) == wilson(1, 3)
    assert mean_interval([0.0] * 8) == wilson(0, 8)
    values = [0.25, 0.5, 1.0, 0.0] * 10
    assert mean_interval(values) == bootstrap(values) == bootstrap(list(values))


def test_equal_models_may_still_differ() -> None:
    low, high = difference_interval([0.0] * 3)
    assert low == -high < -0.5
    low, high = difference_interval([0.0] * 199 + [1.0])
    assert low < 0 < 1 / 200 < high < 0.03
    assert difference_interval([]) == (-1.0, 1.0)


@pytest.mark.parametrize("count", [8, 12, 15])
@pytest.mark.parametrize(("rise", "fall"), [(0.5, 0.2), (0.8, 0.1), (0.95, 0.0), (0.3, 0.1), (0.05, 0.0)])
def test_intervals_of_few_differences_hold_them(count: int, rise: float, fall: float) -> None:
    rng = random.Random(3)
    held = 0
    for _ in range(300):
        draws = [rng.random() for _ in range(count)]
        low, high = difference_interval([float(x < rise) - float(x > 1 - fall) for x in draws])
        held += low <= rise - fall <= high
    assert held >= 0.94 * 300


def test_few_fractional_values_have_an_interval_that_holds_their_mean() -> None:
    rng = random.Random(4)
    changes = [[rng.gauss(0.1, 0.2) for _ in range(12)] for _ in range(300)]
    assert sum(low <= 0.1 <= high for low, high in map(difference_interval, changes)) >= 0.94 * 300
    values = [[rng.betavariate(2, 2) for _ in range(12)] for _ in range(300)]
    assert sum(low <= 0.5 <= high for low, high in map(mean_interval, values)) >= 0.94 * 300


def test_a_few_equal_differences_do_not_end_uncertainty() -> None:
    low, high = difference_interval([1.0] * 12)
    assert 0.4 < low < 0.8
    assert high == 1
    many = [1.0] * 40 + [0.5] * 3  # 43 nonzero ones, but only 3 that differ
    low, high = difference_interval(many)
    assert high - low > 0.1


def test_intervals_of_differences_hold_them() -> None:
    rng = random.Random(2)
    held = 0
    for _ in range(200):
        draws = [rng.random() for _ in range(100)]
        low, high = difference_interval([float(x < 0.08) - float(x > 0.97) for x in draws])  # mean 0.05
        held += low <= 0.05 <= high
    assert held / 200 >= 0.9


def test_t_interval_by_hand() -> None:
    half = 2.776445 * math.sqrt(0.025) / math.sqrt(5)
    assert t_interval([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert math.isnan(t_interval([0.5])[1])


def test_a_combination_of_one_is_itself_and_of_more_is_narrower() -> None:
    assert combined([0.5], [(0.3, 0.8)], [1.0]) == (0.3, 0.8)
    low, high = combined([0.5, 0.0], [(0.3, 0.8), (0.0, 0.4)], [0.5, 0.5])
    assert low == 0.25 - 0.1
    assert high == pytest.approx(0.25 + (0.15**2 + 0.2**2) ** 0.5)
