"""Paired differences of two models."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from evaluation.test_scores import answer, sampled

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.evaluation.answers import Answer
from edge_grpo.evaluation.paired import check_alike, compare


def greedy(flags: Sequence[int], benchmark: str = "b") -> list[Answer]:
    return [answer(f"p{i}", "correct" if flag else "wrong", benchmark=benchmark) for i, flag in enumerate(flags)]


def test_the_difference_is_b_minus_a_problem_by_problem() -> None:
    a, b = greedy([1, 0, 0, 0, 1, 0, 1, 0]), greedy([1, 1, 1, 0, 0, 0, 1, 0])
    paired = compare(a, b)
    d = paired.differences["b"]["pass@1/greedy"]
    assert (d.a, d.b, d.value, d.problems, d.a_ahead, d.b_ahead) == (3 / 8, 0.5, 1 / 8, 8, 1, 2)
    assert d.low < 0 < 1 / 8 < d.high
    reverse = compare(b, a).differences["b"]["pass@1/greedy"]
    assert (reverse.value, reverse.a_ahead, reverse.b_ahead) == (-d.value, d.b_ahead, d.a_ahead)


def test_pairing_is_narrower_than_two_means() -> None:
    flags = [1, 0] * 100
    d = compare(greedy(flags), greedy([1, *flags[1:-1], 1])).differences["b"]["pass@1/greedy"]
    assert d.high - d.low < 0.05  # each mean alone: 0.14


def test_averages_are_over_the_problems_and_over_the_benchmarks() -> None:
    a = greedy([0] * 2, "s") + greedy([0] * 8, "l")
    b = greedy([1, 0], "s") + greedy([1] + [0] * 7, "l")
    found = compare(a, b).differences
    assert list(found) == ["s", "l", "problem-weighted", "macro"]
    assert found["problem-weighted"]["pass@1/greedy"].value == pytest.approx(2 / 10)
    assert found["macro"]["pass@1/greedy"].value == pytest.approx((1 / 2 + 1 / 8) / 2)


def test_only_common_problems_and_metrics_count_whatever_their_order() -> None:
    a = greedy([1, 1, 0]) + sampled("p0", "cc") + sampled("p1", "cw")
    b = [*reversed(greedy([0, 1, 0, 1])), *sampled("p1", "cc"), *sampled("p0", "ww")]
    paired = compare(a, b)
    assert (paired.num_problems, paired.num_unpaired) == (3, 1)
    own = paired.differences["b"]
    assert own["pass@1/greedy"].value == pytest.approx(-1 / 3)
    assert own["avg@2"].value == pytest.approx((-1 + 0.5) / 2)
    assert "avg@2" not in compare(a, greedy([0, 1, 0])).differences["b"]


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="no problems in common"):
        compare(greedy([1]), greedy([1], "other"))
    with pytest.raises(DataError, match="no metric in common"):
        compare(greedy([1]), sampled("p0", "cc"))


def test_problems_of_one_name_but_other_words_are_no_pair() -> None:
    a, b = greedy([1, 0]), greedy([1, 0])
    assert compare(a, [b[0], replace(b[1], prompt="another?")]).num_problems == 1


def test_problems_of_one_name_but_other_images_are_no_pair() -> None:
    a = [replace(each, images=("0a",)) for each in greedy([1, 0])]
    b = [a[0], replace(a[1], images=("0b",))]
    paired = compare(a, b)
    assert (paired.num_problems, paired.num_unpaired) == (1, 1)


def test_evaluations_made_in_different_ways_are_not_compared() -> None:
    one = {"weights": "a", "problems": {"b": "1"}, "eval": {"samples": 8, "temperature": 1.0}, "data": {}, "reward": {}}
    check_alike(one, {**one, "weights": "b", "problems": {"c": "2"}})
    with pytest.raises(ConfigError, match=r"evaluated differently \(eval.temperature is 1.0 and 0.2\)"):
        check_alike(one, {**one, "eval": {"samples": 8, "temperature": 0.2}})
