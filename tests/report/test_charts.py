"""Charts: what they show, and what their SVG may not hold."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from made_runs import answer, group, make_run

from edge_grpo.evaluation.intervals import t_interval
from edge_grpo.report.arms import arms_of
from edge_grpo.report.charts import Bars, Chart, Curve, Lines, Points, Stack, draw, table_of_values
from edge_grpo.report.figures import charts, entropy_gaps, smoothed
from edge_grpo.report.run import Run, read_run


def test_an_svg_holds_no_styles_and_follows_the_colours_of_the_page() -> None:
    drawn = draw(Chart("Title", 'says <b> "', Lines([Curve("a$b$<i>", [(1, 0.2), (2, 0.4)], 3)], "share")), "f1")
    root = ElementTree.fromstring(drawn)
    assert root.attrib["aria-label"] == 'Title. says <b> "'
    assert not re.search(r"style|script|href=\"[^#]|on\w+=", drawn)
    assert "var(--c3)" in drawn
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    ids = re.findall(r'id="([^"]*)"', drawn)
    assert ids
    assert all(one.startswith("f1-") for one in ids)
    assert set(re.findall(r'href="#([^"]*)"', drawn)) <= set(ids)


def test_the_table_of_values_has_what_is_drawn() -> None:
    curves = [Curve("a", [(step, step / 100) for step in range(1, 101)], 0), Curve("b", [(1, math.nan)], 1)]
    heads, rows = table_of_values(Lines(curves, "share", share=True))
    assert heads == ["step", "a", "b"]
    assert (len(rows), rows[0], rows[-1]) == (12, ["1", "1.0%", ""], ["100", "100.0%", ""])
    assert table_of_values(Stack([1, 2], {"x": [0.5, 1], "y": [0.5, 0]}, "share", [0, 1]))[1][1] == [
        "2",
        "100.0%",
        "0.0%",
    ]
    assert table_of_values(Points({"right": [(1, 2), (3, 4)], "wrong": []}, "x", "y", [0, 1]))[1] == [
        ["right", "2", "2", "3"]
    ]
    assert table_of_values(Bars({"reflect": {"right": 3.0}, "answer": {"wrong": 1.0}}, "n", [0, 1])) == (
        ["", "right", "wrong"],
        [["reflect", "3", ""], ["answer", "", "1"]],
    )


def test_smoothing_looks_back_only() -> None:
    assert smoothed([(1, 1.0), (2, 3.0), (3, 8.0)], 2) == [(1, 1.0), (2, 2.0), (3, 5.5)]


def test_entropy_is_compared_within_questions_and_without_corrected_answers(tmp_path: Path) -> None:
    rows = [
        *group(1, 0, [answer(1, entropy=0.1), answer(0, entropy=0.5), answer(0, entropy=0.7)]),
        *group(1, 1, [answer(1, entropy=9.0), answer(1, entropy=9.0)]),
        *group(1, 2, [answer(1, entropy=5.0, strategy="answer", before=0), answer(0, entropy=0.5)]),
    ]
    ((step, gap),) = entropy_gaps(read_run(make_run(tmp_path / "run", {1: rows})).completions)
    assert (step, round(gap, 9)) == (1, -0.5)


def test_a_report_leaves_out_charts_without_values_and_has_the_fate_of_each_remedy(tmp_path: Path) -> None:
    rows = group(1, 0, [answer(1, before=0, strategy="answer"), answer(0, strategy="reflect"), answer(0)])
    rows += group(1, 1, [answer(0, verdict="error", strategy="reflect")])
    drawn = {chart.title: chart for _, chart in charts(arms_of([read_run(make_run(tmp_path / "run", {1: rows}))]))}
    assert "Gap between sampler and policy" not in drawn
    assert "Length" not in drawn
    bars = drawn["Fate of each remedy"].drawing
    assert isinstance(bars, Bars)
    assert bars.bars == {
        "reflect": {"right afterwards": 0.0, "still wrong": 1.0, "not graded": 1.0},
        "answer": {"right afterwards": 1.0, "still wrong": 0.0, "not graded": 0.0},
    }


def test_labels_from_data_are_shown_whole_and_hide_nothing(tmp_path: Path) -> None:
    parts = [{"name": name, "value": 1.0} for name in ("a\x01b", "c\u202ed", "_hidden", "漢字")]
    names = {f"reward/part/{part['name']}": 1.0 for part in parts}
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)] * 2)}, metrics=lambda step: names)
    chart = next(chart for _, chart in charts(arms_of([read_run(path)])) if chart.title == "Reward by part")
    text = "".join(ElementTree.fromstring(draw(chart, "f1")).itertext())
    for shown in ("a[U+0001]b", "c[U+202E]d", "_hidden", "漢字"):
        assert shown in text


def test_seconds_of_a_step_are_means_of_the_runs_that_took_it(tmp_path: Path) -> None:
    runs = [
        read_run(
            make_run(
                tmp_path / str(last),
                {step: group(step, 0, [answer(0)] * 2) for step in range(1, last + 1)},
                f"train.seed={last}",
                metrics=lambda step: {"time/update_s": 2.0},
            )
        )
        for last in (2, 4)
    ]
    chart = next(chart for _, chart in charts(arms_of(runs)) if chart.title == "Time by phase")
    assert isinstance(chart.drawing, Stack)
    assert chart.drawing.parts == {"update": [2.0] * 4}


def test_stored_pairs_are_no_groups_that_were_sampled(tmp_path: Path) -> None:
    told = {"rewards/accuracies": 0.75}
    words = ("method=rpo", "data.pairs=pairs.jsonl")
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0), answer(1)])}, *words, metrics=lambda step: told)
    titles = [chart.title for _, chart in charts(arms_of([read_run(path)]))]
    assert "Pairs ranked right" in titles
    assert not any(title.startswith("Kinds of groups") for title in titles)


CURVES = {
    "Held-out accuracy": ("eval/accuracy",),
    "Accuracy of samples": ("accuracy",),
    "Pairs ranked right": ("rewards/accuracies",),
    "Reward before and after corrections": ("reward/before", "reward/after"),
    "Groups without a signal": ("collapse/before", "collapse/after"),
    "Spread of advantages within groups": ("advantage/variance_before", "advantage/variance"),
    "Entropy": ("entropy",),
    "Loss": ("loss",),
    "Gradient norm": ("grad_norm",),
    "Drift": ("kl/old", "kl/reference"),
    "Clipped tokens": ("clip/low", "clip/high"),
    "Learning rate": ("learning_rate",),
    "Length": ("length/sampled",),
    "Cut off": ("length/unfinished",),
    "Tokens per second": ("time/tokens_per_s",),
    "Gap between sampler and policy": ("sampler/gap",),
}


def test_every_curve_is_that_of_its_metric(tmp_path: Path) -> None:
    names = [name for own in CURVES.values() for name in own]
    told = {name: (1 + number) / 100 for number, name in enumerate(names)}
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0), answer(1)])}, metrics=lambda step: told)
    drawn = {chart.title: chart.drawing for _, chart in charts(arms_of([read_run(path)]))}
    for title, own in CURVES.items():
        drawing = drawn[title]
        assert isinstance(drawing, Lines)
        assert [curve.points for curve in drawing.curves] == [[(1, told[name])] for name in own], title


def test_bands_are_over_problems_for_one_run_and_over_seeds_for_several(tmp_path: Path) -> None:
    runs = []
    for seed, rate in enumerate((0.45, 0.5, 0.55)):
        told = {"eval/accuracy": rate, "eval/accuracy_low": rate - 0.1, "eval/accuracy_high": rate + 0.2}
        rows = {1: group(1, 0, [answer(0)] * 2)}
        runs.append(
            read_run(make_run(tmp_path / str(seed), rows, f"train.seed={seed}", metrics=lambda step, t=told: t))
        )

    def band(of: list[Run]) -> list[float]:
        drawing = next(chart for _, chart in charts(arms_of(of)) if chart.title == "Held-out accuracy").drawing
        assert isinstance(drawing, Lines)
        ((_, low, high),) = drawing.curves[0].band
        return [low, high]

    assert np.allclose(band(runs[:1]), [0.35, 0.65])
    assert np.allclose(band(runs), t_interval([0.45, 0.5, 0.55])[1:])


def test_points_have_the_entropy_and_the_advantages_of_their_completions(tmp_path: Path) -> None:
    right = answer(1, entropy=0.1, advantage_before_shaping=2.0, advantage=3.0)
    wrong = answer(0, entropy=0.4, advantage_before_shaping=-2.0, advantage=-5.0)
    left = answer(0, trained=False, advantage=9.0)
    path = make_run(tmp_path / "run", {1: group(1, 0, [right, wrong, left])})
    drawn = {chart.title: chart.drawing for _, chart in charts(arms_of([read_run(path)]))}
    shaped, entropy = drawn["Advantages before and after shaping"], drawn["Advantage against entropy"]
    assert isinstance(shaped, Points)
    assert isinstance(entropy, Points)
    assert shaped.clouds == {"right": [(2.0, 3.0)], "wrong": [(-2.0, -5.0)]}
    assert entropy.clouds == {"right": [(0.1, 3.0)], "wrong": [(0.4, -5.0)]}
