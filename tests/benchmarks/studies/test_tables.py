"""Pieces that the pages share."""

import pytest
from benchmarks.made_up import make_comparison, measured
from compare_edge import ARMS
from studies.tables import arms_list, figure, paired_difference, rates_table


def test_a_figure_is_a_mean_and_a_dash_where_there_is_none() -> None:
    assert figure([measured("a", 0, 1, seconds=1.0), measured("a", 1, 1, seconds=2.0)], "seconds", "{:.1f}") == "1.5"
    assert figure([measured("a", 0, 1)], "nothing", "{:.1f}") == "-"


def test_a_paired_difference_removes_common_noise() -> None:
    one = [measured("a", seed, right, total=200) for seed, right in enumerate([120, 150, 90])]
    two = [measured("b", seed, right, total=200) for seed, right in enumerate([100, 130, 70])]
    (mean, low, high), (least, most) = paired_difference(one, two)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert 0 < least < 0.1 < most < 0.2
    assert paired_difference(two, one) == ((-mean, -high, -low), pytest.approx((-most, -least), abs=0.005))


def test_equal_arms_may_still_differ_on_other_problems() -> None:
    one = [measured("a", seed, right) for seed, right in enumerate([12, 15, 9])]
    (mean, low, high), (least, most) = paired_difference(one, one)
    assert mean == low == high == 0
    assert least == -most < -0.1


def test_the_chosen_rate_is_in_bold() -> None:
    table = rates_table(make_comparison(ARMS, lambda _: 10))
    assert "| GRPO | **50.0%** | 40.0% | 40.0% |" in table


def test_every_arm_lists_its_settings() -> None:
    told = arms_list(ARMS)
    assert "`its own loop`" in told
    assert "`all defaults`" in told
    assert "method.correction.amount=none" in told
