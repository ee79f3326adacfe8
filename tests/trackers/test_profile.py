"""Profiles: the time of a run by phase, operators by their own time, and traces of runs that compute the same."""

import gzip
import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, Crash, CrashAfter, rollouts, rows, weights
from support import save_tiny

from edge_grpo.config.tree import Config, load_config
from edge_grpo.trackers.console import Silent
from edge_grpo.trackers.profile import PHASES, Event, Operator, Profile, operators, seconds_by_phase
from edge_grpo.training.loop import resume, train

PLAIN = ("method=grpo", "eval.every=0", "eval.at_start=false", "eval.at_end=false")
CORRECTED = ("method.correction.max_new_tokens=40", "rollout.max_new_tokens=8", "train.steps=3")
STEP = {"time/step_s": 4.0, "time/sample_s": 2.0, "time/update_s": 1.0, "time/write_s": 1.0}


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# --- operators and seconds --------------------------------------------------------------------------------------------


def test_an_operator_has_its_own_time_in_the_outermost_phase() -> None:
    events = [
        Event(0, 100, "correct", is_range=True),
        Event(10, 60, "sample", is_range=True),
        Event(20, 51, "linear"),
        Event(25, 45, "mm"),
        Event(30, 40, "copy"),
        Event(70, 75, "mm"),
        Event(100, 200, "update", is_range=True),
        Event(110, 190, "Optimizer.step", is_range=True),
        Event(120, 150, "mm"),
        Event(130, 190, "mm", thread=2),
        Event(220, 223, "copy"),
    ]
    assert operators(events) == [
        Operator("update", "mm", 2, 90e-9),
        Operator("correct", "mm", 2, 15e-9),
        Operator("correct", "linear", 1, 11e-9),
        Operator("correct", "copy", 1, 10e-9),
        Operator("other", "copy", 1, 3e-9),
    ]


def test_what_ran_on_a_gpu_counts_for_the_operator_that_launched_it() -> None:
    events = [
        Event(0, 10, "update", is_range=True),
        Event(1, 9, "linear", id=1),
        Event(2, 8, "mm", id=2),
        Event(20, 320, "ampere_gemm", thread=7, id=2, on_device=True),
        Event(320, 350, "ampere_gemm", thread=7, id=2, on_device=True),
        Event(350, 360, "of an operator before the trace", thread=7, id=99, on_device=True),
    ]
    assert operators(events) == [Operator("update", "mm", 1, 330e-9)]


def test_the_phases_add_up_to_the_step_its_evaluation_and_writing() -> None:
    row = {"time/at": 1e9, "loss": 2.0, "time/grade_s": 0.25, "time/eval_s": 3.0, **STEP}
    spent = seconds_by_phase(row)
    assert tuple(spent) == PHASES
    assert sum(spent.values()) == 4.0 + 3.0 + 1.0
    assert spent["other"] == 0.75
    assert seconds_by_phase({"time/eval_s": 3.0})["other"] == 0.0


# --- the tracker ------------------------------------------------------------------------------------------------------


def shares(said: list[str]) -> dict[str, float]:
    """The percentages of the table of phases."""
    found = [re.fullmatch(r"  (\w+) +[\d.]+ +([\d.]+)%", line) for line in said]
    return {match[1]: float(match[2]) for match in found if match}


def test_its_own_time_is_not_counted(tmp_path: Path) -> None:
    clock, said = Clock(), list[str]()
    profile = Profile(tmp_path, say=said.append, clock=clock, most_s=1.0)

    class Slow(dict[str, float]):
        def get(self, *args: object) -> float | None:
            clock.now += 0.01
            return super().get(*args)

    profile.log(1, Slow(STEP))
    own = clock.now - 100.0
    assert own > 0
    profile.log(2, {**STEP, "time/write_s": 1.0 + own})
    profile.close()
    assert "  total        10.00   100.0%" in said
    assert "  write         2.00    20.0%" in said


def test_slow_steps_are_not_traced(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(tmp_path, say=said.append, most_s=4.9)
    for step in (1, 2, 3):
        profile.log(step, STEP)
    profile.close()
    assert said[0] == "where the time of 3 steps went:"
    assert said[-1].startswith("no trace: a step took 5 s, and at most 5 s are traced; lower rollout.max_new_tokens")
    assert not profile.file.exists()


def test_two_steps_are_traced_after_the_first_or_one_if_two_take_too_long(tmp_path: Path) -> None:
    for most_s, traced in ((60.0, "operators of steps 2 and 3 ("), (7.0, "operators of step 2 (")):
        clock, said = Clock(), list[str]()
        profile = Profile(tmp_path, say=said.append, clock=clock, most_s=most_s)
        for step in range(1, 6):
            clock.now += 5.0
            profile.log(step, STEP)
        profile.close()
        assert [line for line in said if line.startswith(traced)]
        profile.file.unlink()


def test_a_run_of_one_step_is_not_traced(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(tmp_path, say=said.append)
    profile.log(0, {"time/eval_s": 3.0})
    profile.log(1, STEP)
    profile.close()
    assert shares(said)["eval"] == 37.5
    assert said[-1] == "no trace: the first step warms up, and no later one was finished; take at least 2 steps"
    assert not profile.file.exists()


def test_what_comes_after_the_last_traced_step_is_not_counted(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(tmp_path, say=said.append)
    profile.log(1, STEP)
    torch.ones(5).cumsum(0)
    profile.log(2, STEP)
    torch.ones(5).sort()
    profile.close()
    assert any("aten::cumsum" in line for line in said)
    assert not any("aten::sort" in line for line in said)


def test_a_step_that_fails_is_not_a_trace(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(tmp_path, say=said.append)
    profile.log(1, STEP)
    torch.ones(5).cumsum(0)
    profile.close()
    assert said[-1].startswith("no trace: ")
    assert not profile.file.exists()


def test_a_trace_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    said: list[str] = []
    profile = Profile(tmp_path, say=said.append)
    for step in (1, 2, 3):
        profile.log(step, STEP)
    profile.close()
    assert said[-1].startswith("trace: not written (")


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    model, folder = save_tiny(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("runs")

    def config(name: str, *words: str) -> Config:
        return load_config(None, [f"model.path={model}", *SMALL[:-1], f"run.dir={folder / name}", *words])

    return config


def ranges(folder: Path) -> set[str]:
    """The named ranges of a trace."""
    trace = json.loads(gzip.decompress((folder / "profile/trace.json.gz").read_bytes()))
    return {event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation"}


def test_a_profiled_run_computes_the_same_and_leaves_a_trace(make: Callable[..., Config]) -> None:
    said: list[str] = []
    plain = train(make("plain", *CORRECTED)).folder
    profiled = train(make("profiled", *CORRECTED), trackers=[partial(Profile, say=said.append)]).folder
    assert weights(profiled) == weights(plain)
    assert rows(profiled) == rows(plain)
    assert rollouts(profiled) == rollouts(plain)
    assert {*PHASES} - ranges(profiled) == {"other"}
    assert said[0] == "where the time of 3 steps went:"
    found = shares(said)
    assert found.pop("total") == 100.0
    assert tuple(found) == PHASES
    assert sum(found.values()) == pytest.approx(100.0, abs=0.4), "to the rounding of each"
    assert found["update"] > 0
    began, end = (next(i for i, line in enumerate(said) if line.startswith(start)) for start in ("operators", "  none"))
    listed = said[began + 2 : end]
    assert len(listed) == 10
    assert any("aten::" in line for line in listed)
    assert {line.split()[0] for line in listed} <= {*PHASES}
    assert said[-1].startswith(f"trace: {profiled}/profile/trace.json.gz (")
    assert len(said) < 30
    assert max(map(len, said[:-1])) <= 80


def test_a_resumed_run_is_traced_from_its_own_second_step(make: Callable[..., Config]) -> None:
    config, said = make("resumed", *PLAIN), list[str]()
    with pytest.raises(Crash):
        train(config, trackers=[partial(Profile, say=said.append)], display=CrashAfter(4))
    assert said[0] == "where the time of 4 steps went:"
    assert any(line.startswith("operators of steps 2 and 3 (") for line in said), "also after an error"
    said.clear()
    folder = resume(config.run.dir, trackers=[partial(Profile, say=said.append)]).folder
    assert said[0] == "where the time of 4 steps went:"
    assert any(line.startswith("operators of steps 4 and 5 (") for line in said)
    assert (folder / "profile/trace.json.gz").is_file()


def test_a_run_stopped_by_a_signal_shows_its_profile(make: Callable[..., Config]) -> None:
    said: list[str] = []

    class Stopping(Silent):
        def log(self, step: int, row: Mapping[str, float | None]) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    result = train(make("stopped", *PLAIN), trackers=[partial(Profile, say=said.append)], display=Stopping())
    assert (result.signal, result.steps) == (signal.SIGTERM, 3)
    assert said[0] == "where the time of 3 steps went:"
    assert said[-1].startswith("trace: ")


def test_a_tracker_may_be_opened_in_the_run_folder_by_its_class(
    make: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(make("class", *PLAIN, "train.steps=2"), trackers=[Profile]).folder
    out = capsys.readouterr().out
    assert "operators of step 2 (" in out
    assert f"trace: {folder}/profile" in out.replace("\n", "")
