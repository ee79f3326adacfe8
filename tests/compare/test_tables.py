"""Pieces of pages."""

from compare.study import make_study, measured

from edge_grpo.compare.edge import ARMS
from edge_grpo.compare.tables import arms_list, figure, rates_table


def test_a_figure_is_a_mean_and_a_dash_where_there_is_none():
    assert figure([measured("a", 0, 1, seconds=1.0), measured("a", 1, 1, seconds=2.0)], "seconds", "{:.1f}") == "1.5"
    assert figure([measured("a", 0, 1)], "nothing", "{:.1f}") == "-"


def test_the_chosen_rate_is_in_bold():
    table = rates_table(make_study(ARMS, lambda _: 10))
    assert "| GRPO | **50.0%** | 40.0% | 40.0% |" in table


def test_every_arm_tells_its_settings():
    told = arms_list(ARMS)
    assert "`its own loop`" in told
    assert "`all defaults`" in told
    assert "method.correction.amount=none" in told
