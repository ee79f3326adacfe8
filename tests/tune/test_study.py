"""Studies of stand-in trials in real processes: run in parallel, stopped early, resumed, and found again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tune.spaces import TEXT, scores, space_of
from tune.studies import even, run

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import load_config
from edge_grpo.tune.record import read
from edge_grpo.tune.space import EarlyStop
from edge_grpo.tune.space_file import load_space
from edge_grpo.tune.study import BEST, Study, hopeless


def test_a_study_runs_in_a_named_folder_and_leaves_its_best_configuration(
    tmp_path: Path, stand_in: Callable[..., None]
) -> None:
    study = Study(even(space_of(tmp_path)), name="mine")
    assert study.resolutions == {"3": 1.0, "4": 1.0}, "the stand-in benchmarks have one problem each"
    trials, calls = run(study)
    assert study.folder.parent == Path("runs/tune")
    assert study.folder.name.startswith("mine-")
    assert calls == [(1, 1), (2, 2), (3, 3)]
    assert [trial.state for trial in trials] == ["finished"] * 3
    for trial in trials:
        assert trial.parts == scores(trial.settings)
        assert trial.whole == pytest.approx(0.5 * trial.parts["3"] + 2 * trial.parts["4"])
    best = max(trials, key=lambda trial: trial.whole)
    config = load_config(str(study.folder / BEST))
    assert config.train.learning_rate == best.settings["train.learning_rate"]
    assert (config.train.steps, config.run.dir) == (2, "")
    kept = [path.parent.parent.name for path in study.folder.glob("trials/*/run/final")]
    assert kept == [f"{best.number:04d}"]  # only the best weights


def test_finished_trials_are_not_repeated_and_more_can_be_added(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    space = space_of(tmp_path)
    first, _ = run(Study(even(space, 2), folder="s"))
    again, calls = run(Study(even(space, 2), folder="s"))
    assert (again, calls) == (first, [])
    more = replace(even(space, 2), trials=3)
    trials, calls = run(Study(more, folder="s"))
    assert trials[:2] == first
    assert calls == [(3, 3)]
    assert [(Path("s/trials") / f"{n:04d}" / "begun").read_text() for n in (1, 2, 3)] == ["x"] * 3


def test_asking_for_fewer_trials_than_exist_runs_nothing(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    space = space_of(tmp_path)
    three, _ = run(Study(even(space, 3), folder="s"))
    again, calls = run(Study(replace(even(space, 3), trials=2), folder="s"))
    assert (again, calls) == (three, [])


def test_the_time_limit_of_a_trial_can_change(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    space = even(space_of(tmp_path), 2)
    first, _ = run(Study(space, folder="s"))
    assert run(Study(replace(space, trial_s=99.0), folder="s")) == (first, [])


def test_a_folder_of_another_study_is_rejected(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    space = even(space_of(tmp_path), 2)
    run(Study(space, folder="s"))
    for other, named in (
        (Study(replace(space, seed=1), folder="s"), r"space\.seed was 0, is 1"),
        (Study(space, folder="s", decomposed=False), "decomposed was True, is False"),
    ):
        with pytest.raises(ConfigError, match=named):
            run(other)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").write_text("")
    with pytest.raises(ConfigError, match="holds other files but no study"):
        run(Study(space, folder="taken"))


def test_two_processes_cannot_share_a_folder(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    study = Study(even(space_of(tmp_path), 2), folder="s")
    with study.opened(), pytest.raises(ConfigError, match="another process is using it"):
        run(study)


def test_a_study_is_the_same_from_another_working_folder(
    tmp_path: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    space_of(tmp_path)
    (tmp_path / "base.yaml").write_text("train: {steps: 3}\n")
    (tmp_path / "space.yaml").write_text("base: base.yaml\n" + TEXT)
    first, _ = run(Study(even(load_space("space.yaml"), 2), folder=str(tmp_path / "s")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again, calls = run(Study(even(load_space("../space.yaml"), 2), folder="../s"))
    assert (again, calls) == (first, [])
    task = json.loads((tmp_path / "s/trials/0001/trial.json").read_text())
    assert task["base"] == str(tmp_path / "base.yaml")
    assert not any(word.startswith("run.dir") for word in task["words"])  # the trial's own process sets it


def test_parallel_trials_all_differ_and_are_all_recorded(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    stand_in("""
        other = folder.parent / f"{number + 1 if number % 2 else number - 1:04d}" / "begun"
        limit = time.monotonic() + 30
        while not other.exists():
            time.sleep(0.01)
            if time.monotonic() > limit:
                sys.exit("the other one has not started")
    """)
    trials, calls = run(Study(even(space_of(tmp_path), 4), folder="s"), jobs=2)
    assert [(trial.number, trial.reason) for trial in trials] == [(1, ""), (2, ""), (3, ""), (4, "")]
    assert sorted(number for _, number in calls) == [1, 2, 3, 4]
    assert len({str(trial.settings) for trial in trials}) == 4
    stand_in()
    alone, _ = run(Study(even(space_of(tmp_path), 4), folder="t"))
    assert [trial.settings for trial in alone] == [trial.settings for trial in trials]


def test_the_median_rule_stops_only_trials_below_the_median() -> None:
    rule = EarlyStop(enabled=True, after_steps=4, after_trials=3)
    others = [((2, 0.2), (4, level), (6, 0.9)) for level in (0.4, 0.5, 0.6)]
    assert hopeless(((2, 0.1), (4, 0.4)), others, rule).startswith("best held-out accuracy 40.0% up to step 4, below")
    assert not hopeless(((2, 0.1), (4, 0.5)), others, rule)  # not below
    assert not hopeless(((2, 0.55), (4, 0.1)), others, rule)  # its best so far counts
    assert not hopeless(((2, 0.0),), others, rule)  # too early
    assert not hopeless(((4, 0.0),), others[:2], rule)  # too few to compare with
    assert not hopeless(((8, 0.0),), others, rule)  # none of them reached this step
    assert not hopeless(((4, 0.0),), others, EarlyStop(after_steps=4, after_trials=3))
    assert not hopeless((), others, rule)


def test_a_hopeless_trial_is_stopped_early(tmp_path: Path, stand_in: Callable[..., None]) -> None:
    stand_in("""
        (folder / "run").mkdir(exist_ok=True)
        level = 0.5 if number < 3 else 0.25
        (folder / "run" / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval/accuracy": level}) + "\\n")
        if number == 3:
            time.sleep(60)
    """)
    rule = EarlyStop(enabled=True, after_trials=2)
    trials, _ = run(Study(replace(even(space_of(tmp_path)), early_stop=rule), folder="s"))
    assert [trial.state for trial in trials] == ["finished", "finished", "stopped"]
    assert trials[2].curve == ((1, 0.25),)
    assert "below the median 50.0% of 2 trials" in trials[2].reason
    assert read(Path("s")) == trials


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("{3: 1, medium: 2}", "got 'medium', wanted a number of operands"),
        ("{1: 1}", "got '1', wanted a number of operands"),
        ("{2: 1}", "900 problems with 2 operands: data.arithmetic: only"),
    ],
)
def test_missing_parts_are_reported_before_any_trial(tmp_path: Path, weights: str, message: str) -> None:
    text = TEXT.replace("{3: 0.5, 4: 2}", weights).replace("problems: 4", "problems: 900")
    with pytest.raises(ConfigError, match=message):
        Study(space_of(tmp_path, text))
