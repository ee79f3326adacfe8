"""The search in use: every study is run and judged, finished work is kept, and the tables match the trials."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tune_arithmetic
import yaml
from tune_arithmetic import ARMS, Searched, gains, measure, section

from edge_grpo.config.tree import load_config
from edge_grpo.tune.record import Trial
from edge_grpo.tune.space_file import load_space
from edge_grpo.tune.trial import benchmarks_of


class StandIn:
    """In place of edge-grpo: records its calls and writes what a study of three trials or an evaluation leaves."""

    def __init__(self) -> None:
        self.calls: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[Sequence[str]], clock: Path) -> None:
        for words in arguments:
            self.calls.append(words)
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True, exist_ok=True)
            (self.tune if words[0] == "tune" else self.judge)(out)
        with clock.open("a") as file:
            file.write("1.5\n")

    def tune(self, out: Path) -> None:
        parts = {"3": 1.0, "4": 0.5, "5": 0.0, "6": 0.5}
        trial = {"settings": {}, "state": "finished", "parts": parts, "whole": 0.5, "seconds": 3}
        (out / "trials.jsonl").write_text("".join(json.dumps({"number": n, **trial}) + "\n" for n in (1, 2, 3)))
        (out / "best.yaml").write_text("# trial 1, pass@1/greedy: 0.5")

    def judge(self, out: Path) -> None:
        scores = {part: {"scores": {"pass@1/greedy": {"value": 0.8}}} for part in "3456"}
        (out / "results.json").write_text(json.dumps({"benchmarks": scores}))


def after(word: str, calls: Sequence[Sequence[str]]) -> list[str]:
    """The argument that follows a word, in each call."""
    return [words[words.index(word) + 1] for words in calls]


def test_every_arm_of_every_repeat_is_searched_and_judged(tmp_path: Path) -> None:
    run = StandIn()
    found = measure(tmp_path, repeats=2, trials=3, run=run)
    assert [sorted(repeat) for repeat in found] == [sorted(ARMS)] * 2
    assert found[1]["sum"].fresh == pytest.approx(0.8)
    assert found[1]["sum"].best_after(3) == 0.5
    studies, judged = ([words for words in run.calls if words[0] == verb] for verb in ("tune", "eval"))
    assert sorted(after("--decomposed", studies)) == ["false"] * 4 + ["true"] * 4
    assert len(judged) == 8
    assert all(model.endswith("/trials/0001/run/final") for model in after("--model", judged))
    spaces = [load_space(words[1]) for words in studies]
    assert sorted((space.seed, space.scale, space.trials) for space in spaces) == sorted(
        (repeat, scale, 3) for repeat in range(2) for scale in (5, 5, 1, 1)
    )
    assert all(space.settings[-1] == f"train.seed={space.seed}" for space in spaces)
    assert tune_arithmetic.seconds(tmp_path) == 8 * 1.5  # two at a time


def test_only_missing_work_is_done(tmp_path: Path) -> None:
    first, second = StandIn(), StandIn()
    before = measure(tmp_path, repeats=1, trials=3, run=first)
    (tmp_path / "repeat-0" / "sum" / "best.yaml").unlink()
    (tmp_path / "repeat-0" / "parts" / "fresh" / "results.json").unlink()
    assert measure(tmp_path, repeats=1, trials=3, run=second) == before
    assert [(words[0], Path(words[-1]).name) for words in second.calls] == [("tune", "sum"), ("eval", "fresh")]
    with pytest.raises(SystemExit, match="its studies searched another space"):
        measure(tmp_path, repeats=1, trials=4, run=second)


def test_what_is_compared_has_a_name_and_a_sign() -> None:
    found = gains(repeats())
    assert found["arithmetic, fresh", 5.0] == pytest.approx([0.1, -0.1])
    assert found["arithmetic, chosen", 1.0] == pytest.approx([0.0, 0.0])


def test_no_trial_was_scored_on_the_fresh_problems(tmp_path: Path) -> None:
    suite = tune_arithmetic._suite(tmp_path)
    space = load_space(str(tune_arithmetic.SPACE))
    for scored in benchmarks_of(space.objective, load_config(None)):
        path = suite.parent / yaml.safe_load(suite.read_text())["benchmarks"][scored.name]
        fresh = {json.loads(line)["problem"] for line in path.read_text().splitlines()}
        assert len(fresh) == tune_arithmetic.FRESH
        assert not fresh & {problem.prompt for problem in scored.problems}


def searched(fresh: float, *wholes: float | None) -> Searched:
    trials = tuple(
        Trial(n, {}, "late", seconds=31.0)
        if whole is None
        else Trial(n, {}, "finished", {"3": whole}, whole, seconds=10.0)
        for n, whole in enumerate(wholes, 1)
    )
    return Searched(trials, fresh)


EVEN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def repeats() -> list[dict[str, Searched]]:
    other = (0.1, 0.2, 0.3, 0.4, 0.5, 0.5)
    return [
        {
            "parts": searched(0.7, *EVEN, 0.7, 0.9),
            "sum": searched(0.6, *EVEN, None, 0.7),
            "parts, wide": searched(0.5, *EVEN, 0.7, 0.7),
            "sum, wide": searched(0.5, *EVEN, 0.7, 0.7),
        },
        {
            "parts": searched(0.7, *EVEN, 0.5, 0.7),
            "sum": searched(0.8, *EVEN, 0.5, 0.7),
            "parts, wide": searched(0.5, *EVEN, 0.7, 0.7),
            "sum, wide": searched(0.5, *other, 0.7, 0.7),
        },
    ]


def test_the_tables_match_the_trials() -> None:
    text = "\n".join(section(repeats(), 3000.0))
    lines = text.splitlines()
    assert "all four. 64 trials: 63 finished, 1 late; training and evaluation took 10 s (median)," in lines
    assert "31 s at most, not counting process startup. 50 minutes in total, two studies at" in text
    assert "61 minutes in total (**over the budget of one hour**)" in "\n".join(section(repeats(), 3660.0))
    assert "scored the same in 35 of 36 cases" in text
    assert "| 5 | best of 8 | 80.0 % | 70.0 % | +10.0 (-117.1 to +137.1) | 1 | 1 | 0 |" in lines
    assert "| 5 | chosen | 70.0 % | 47.5 % | +22.5 (-263.4 to +308.4) | 1 | 1 | 0 |" in lines
    assert "| 5 | fresh | 70.0 % | 70.0 % | 0.0 (-127.1 to +127.1) | 1 | 0 | 1 |" in lines
    assert "| 1 | fresh | 50.0 % | 50.0 % | 0.0 (0.0 to 0.0) | 0 | 2 | 0 |" in lines
    assert "| 1 | 70.0% | 80.0% | 50.0% | 50.0% |" in lines
