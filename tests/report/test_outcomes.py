"""Figures of runs and their differences."""

import math
from pathlib import Path

import pytest
from made_runs import answer, group, make_run

from edge_grpo.base.errors import ConfigError
from edge_grpo.report.arms import arms_of
from edge_grpo.report.outcomes import Outcome, dead_prompts, outcomes
from edge_grpo.report.run import Run, read_run


def runs(folder: Path, rates: dict[tuple[str, int], float]) -> list[Run]:
    """A run for each method and seed whose held-out accuracy is as given."""
    found = []
    for (method, seed), rate in rates.items():
        rows = group(1, 0, [answer(1)] * round(10 * rate) + [answer(0)] * round(10 - 10 * rate))
        words = (f"method={method}", f"train.seed={seed}", f"run.dir={folder / f'{method}-{seed}'}")
        found.append(read_run(make_run(folder / f"{method}-{seed}", {1: rows}, *words)))
    return found


def figure(found: list[Outcome], title: str) -> Outcome:
    return next(one for one in found if one.title == title)


def test_runs_that_differ_in_their_seeds_are_one_arm_and_differences_are_paired(tmp_path: Path) -> None:
    rates = {("grpo", 1): 0.2, ("edge_grpo", 2): 0.7, ("grpo", 2): 0.4, ("edge_grpo", 1): 0.5, ("edge_grpo", 3): 0.9}
    arms = arms_of(runs(tmp_path, rates))
    assert [(arm.title, len(arm.runs)) for arm in arms] == [("grpo", 2), ("edge_grpo", 3)]
    held_out = figure(outcomes(arms), "held-out accuracy, last")
    (change,) = held_out.differences
    assert held_out.means[0] is not None
    assert change is not None
    assert math.isclose(held_out.means[0].value, 0.3)
    assert (change.count, round(change.value, 9)) == (2, 0.3), "seed 3 has no partner"
    assert math.isclose(change.low, change.high, abs_tol=1e-9), "both pairs differ by as much"
    assert held_out.cells()[2].startswith("+30.0 points (")


def test_a_single_pair_has_no_interval_and_none_says_so(tmp_path: Path) -> None:
    found = figure(
        outcomes(arms_of(runs(tmp_path / "a", {("grpo", 1): 0.2, ("gpg", 1): 0.5}))), "held-out accuracy, last"
    )
    assert found.cells() == ["20.0%", "50.0%", "+30.0 points (one pair)"]
    found = figure(
        outcomes(arms_of(runs(tmp_path / "b", {("grpo", 1): 0.2, ("gpg", 2): 0.5}))), "held-out accuracy, last"
    )
    assert found.cells() == ["20.0%", "50.0%", "no pair"]


def test_arms_are_titled_by_what_sets_them_apart(tmp_path: Path) -> None:
    words = {"a": ("train.learning_rate=1e-5",), "b": ("train.learning_rate=2e-5",), "c": ("method=gpg",)}
    made = {
        name: read_run(make_run(tmp_path / name, {1: group(1, 0, [answer(0)])}, *own)) for name, own in words.items()
    }
    assert [arm.title for arm in arms_of([made["a"], made["b"]])] == [
        "train.learning_rate=1e-05",
        "train.learning_rate=2e-05",
    ]
    assert [arm.title for arm in arms_of([made["a"], made["c"]])] == ["edge_grpo", "gpg"]
    assert [arm.title for arm in arms_of([made["a"]])] == [made["a"].name]
    with pytest.raises(ConfigError, match="the same run twice"):
        arms_of([made["a"], made["a"]])


def test_a_prompt_is_always_dead_if_no_group_of_it_ever_had_a_signal(tmp_path: Path) -> None:
    wrong, right, mixed = [answer(0)] * 2, [answer(1)] * 2, [answer(0), answer(1)]
    steps = {
        1: group(1, 0, wrong) + group(1, 1, wrong) + group(1, 2, mixed) + group(1, 3, right),
        2: group(2, 0, right) + group(2, 1, mixed) + group(2, 2, wrong),
    }
    run = read_run(make_run(tmp_path / "run", steps))
    found = dead_prompts(run)
    assert [(one.problem, one.seen, one.last_step) for one in found] == [("p0", 2, 2), ("p3", 1, 1)]
    assert {str(kind): count for kind, count in found[0].kinds.items()} == {"all wrong": 1, "all right": 1}
    share = figure(outcomes(arms_of([run])), "always-dead prompts, of those sampled twice or more")
    assert share.cells() == ["33.3%"], "p0, of p0, p1 and p2"


def test_a_kind_that_a_seed_does_not_have_counts_as_none_of_its_groups(tmp_path: Path) -> None:
    right, mixed = [answer(1)] * 2, [answer(0), answer(1)]
    steps = [group(1, 0, right) + group(1, 1, mixed), group(1, 0, mixed) + group(1, 1, mixed)]
    found = [
        read_run(make_run(tmp_path / str(seed), {1: rows}, f"train.seed={seed}")) for seed, rows in enumerate(steps)
    ]
    told = outcomes(arms_of(found))
    (mean,) = figure(told, "all right groups, as sampled").means
    assert mean is not None
    assert (mean.value, mean.count, mean.low) == (0.25, 2, 0.0), "and no share is below 0"
    assert not any(one.title.startswith("all wrong") for one in told), "what no run has is left out"


def test_runs_with_equal_seeds_are_not_independent(tmp_path: Path) -> None:
    found = [read_run(make_run(tmp_path / name, {1: group(1, 0, [answer(0)])})) for name in "ab"]
    with pytest.raises(ConfigError, match="have the same settings and seeds"):
        arms_of(found)


def test_parts_of_the_reward_verdicts_and_phases_are_figures_too(tmp_path: Path) -> None:
    told = {"reward/part/form": 0.5, "verdict/timeout": 0.25, "time/update_s": 2.0, "time/at": 9.0, "time/step_s": 3.0}
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)] * 2)}, metrics=lambda step: told)
    found = {one.title: one.cells() for one in outcomes(arms_of([read_run(path)]))}
    assert found["reward part form, last tenth"] == ["0.5"]
    assert found["verdict timeout, last tenth"] == ["25.0%"]
    assert found["time per step, update, median"] == ["2 s"]
    assert not any("time per step, at" in title for title in found)
