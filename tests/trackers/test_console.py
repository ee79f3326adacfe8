"""What the user sees: plain lines, a live table, and the table at the end."""

import io
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from edge_grpo.trackers.console import LiveDisplay, Output, PlainDisplay, Silent, decoding, summary

ROW = {
    "step": 3,
    "accuracy": 0.25,
    "reward/before": 1.25,
    "entropy": 0.5,
    "collapse/before": 0.5,
    "collapse/after": 0.125,
    "loss": -0.01,
    "time/tokens_per_s": 1234.5,
    "length/sampled": 20.0,
}
EVALUATED = {"eval/accuracy": 0.4, "eval/accuracy_low": 0.3, "eval/accuracy_high": 0.5}


def show(
    display_class: type[PlainDisplay | LiveDisplay], rows: Sequence[dict[str, Any]], *, width: int = 160, **console: Any
) -> str:
    out = io.StringIO()
    display = display_class(Console(file=out, width=width, **console))
    display.start(10, 0)
    for row in rows:
        display.log(row["step"], {name: value for name, value in row.items() if name != "step"})
    display.say("run folder: [bold]x[/bold]")
    display.close()
    return out.getvalue()


def test_plain_lines_hold_everything_that_was_promised() -> None:
    text = show(PlainDisplay, [{"step": 0, **EVALUATED}, ROW | EVALUATED])
    for word in ("step 3/10", "reward 1.25", "accuracy 25.0%", "entropy 0.500 nats", "collapse 50%", "after 12%"):
        assert word in text
    for word in ("  1234 tokens/s", "held-out 40.0% (30.0% - 50.0%)", "left "):
        assert word in text
    assert "[bold]x[/bold]" in text  # text is never read as markup


def test_verdicts_that_mean_trouble_are_shown() -> None:
    assert "cut 97%" in show(PlainDisplay, [ROW | {"length/unfinished": 0.97}])
    trouble = {"length/unfinished": 0.1, "verdict/timeout": 0.25, "verdict/error": 0.0, "verdict/unparsed": 0.5}
    text = show(PlainDisplay, [ROW | trouble])
    assert "timeout 25%" in text
    assert "unparsed 50%" in text
    assert "cut" not in text
    assert "error" not in text
    out = io.StringIO()
    Console(file=out, width=120).print(summary([ROW | {"verdict/timeout": 0.25}]))
    assert "verdict timeout" in out.getvalue()


def test_unknown_figures_are_left_out() -> None:
    text = show(PlainDisplay, [ROW | {"entropy": float("nan"), "reward/before": None}])
    assert "entropy" not in text
    assert "reward" not in text


def test_the_live_table_shows_the_last_steps() -> None:
    text = show(LiveDisplay, [ROW | {"step": step} for step in range(1, 20)], force_terminal=True)
    assert "collapse" in text
    assert "19" in text


def test_the_last_table_compares_first_and_last() -> None:
    out = io.StringIO()
    rows = [
        {"step": 0, **EVALUATED},
        ROW,
        ROW | {"step": 4, "collapse/before": 0.1} | EVALUATED | {"eval/accuracy": 0.9},
    ]
    Console(file=out, width=120).print(summary(rows))
    for word in ("held-out accuracy", "40.0%", "30.0% - 50.0%", "90.0%", "collapsed groups, sampled", "50%", "10%"):
        assert word in out.getvalue()
    assert "first and last step" in out.getvalue()


WIDEST = {
    "step": 99999,
    "reward/before": -12.25,
    "accuracy": 1.0,
    "entropy": 10.5,
    "collapse/before": 1.0,
    "collapse/after": 1.0,
    "time/tokens_per_s": 123456.0,
    "length/sampled": 12345.5,
    "eval/accuracy": 1.0,
    "eval/accuracy_low": 1.0,
    "eval/accuracy_high": 1.0,
}


def test_tables_fit_80_columns_and_say_how_answers_were_drawn() -> None:
    live = show(LiveDisplay, [ROW, WIDEST], width=80, force_terminal=True, color_system=None)
    assert re.search(r"step +reward +accuracy +entropy, nats +collapse +after +tokens/s +held-out", live)
    assert re.search(r"99999 +-12\.25 +100\.0% +10\.500 +100% +100% +123456 +100\.0%", live)
    out = io.StringIO()
    rows = [WIDEST | {"step": 0}, ROW, WIDEST, WIDEST, WIDEST]
    table = summary(rows, sampled=decoding(0.6), held_out=decoding(0.0))
    Console(file=out, width=80).print(table)
    text = out.getvalue()
    assert re.search(r"held-out accuracy, greedy +│ +100\.0% │ +100\.0% │", text)
    assert re.search(r"training accuracy, temperature 0\.6 │", text)
    assert "held-out: steps 0 and 99999; other rows: first and last 2 steps" in text
    assert "…" not in live + text


def test_no_figure_is_shown_that_was_not_measured() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(summary([ROW, ROW | {"step": 4} | EVALUATED | {"eval/accuracy": 0.0}]))
    assert re.search(r"held-out accuracy +│ +not evaluated │ +0\.0% │", out.getvalue())
    assert re.search(r"95% interval +│ +│ +30\.0% - 50\.0% │", out.getvalue())
    assert "held-out: step 4; other rows" in out.getvalue()
    out = io.StringIO()
    Console(file=out, width=80).print(summary([{"step": 0} | EVALUATED, ROW]))
    assert re.search(r"held-out accuracy +│ +40\.0% │ +not evaluated │", out.getvalue())


class Closed(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_output_ends_nothing() -> None:
    display = PlainDisplay(Output(file=Closed()))
    display.start(10, 0)
    for step in (1, 2):
        display.log(step, ROW)
    display.say("unheard")
    display.close()


PAIRS = {"tokens": 0, "time/tokens_per_s": 0.0, "rewards/accuracies": 0.75, "rewards/margins": 0.5, "logps/chosen": -7}


def test_a_run_on_stored_pairs_shows_its_pair_accuracy() -> None:
    steps = [{"step": step, **PAIRS} for step in (1, 2)]
    plain, live = show(PlainDisplay, steps), show(LiveDisplay, steps, force_terminal=True, color_system=None)
    assert re.search(r"^step 2/10  pairs 75\.0%  left \d", plain, re.M)
    assert re.search(r"step +pairs *\n +1 +75\.0% *\n +2 +75\.0%", live)
    out = io.StringIO()
    Console(file=out, width=80).print(summary(steps))
    for title, figure in (("pairs, chosen above rejected", "75.0%"), ("reward margin", "0.500"), ("chosen", "-7.0")):
        assert re.search(rf"{title}[^\n]*{re.escape(figure)}[^\n]*{re.escape(figure)}", out.getvalue())
    assert "held-out" not in out.getvalue()
    assert "nothing was trained" not in out.getvalue()


@pytest.mark.parametrize(
    ("bound", "wanted"),
    [
        ({}, ["1 min 10 s", "1 min 00 s"]),
        ({"max_tokens": 500, "tokens": 200}, ["20 s", "10 s"]),  # 100 of the 300 tokens left in each step
        ({"max_tokens": 10**6, "tokens": 200}, ["1 min 10 s", "1 min 00 s"]),  # steps end it
    ],
)
def test_the_time_left_follows_what_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, bound: dict[str, int], wanted: list[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    display = PlainDisplay(Console(file=out, width=160))
    display.start(10, 2, **bound)
    display.log(2, EVALUATED)
    for step in (3, 4):
        now += 10
        display.log(step, ROW | {"tokens": 100})
    assert re.findall(r"left (.+)$", out.getvalue(), re.M) == wanted


def test_a_run_without_rows_has_a_summary() -> None:
    out = io.StringIO()
    Console(file=out).print(summary([]))
    assert "nothing was trained" in out.getvalue()
    silent = Silent()
    silent.start(1, 0)
    silent.log(3, ROW)
    silent.rewind(2)
    silent.say("x")
    silent.close()
