"""Trackers behind a thread: order, failures, full queues, slow ends, and resumed runs, with a service that records."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.sections import RunSettings
from edge_grpo.trackers.base import COLUMNS, RolloutTracker, sampled
from edge_grpo.trackers.open import check_installed, open_trackers
from edge_grpo.trackers.remote import Remote, Target


@dataclass
class Server:
    """A service that keeps the rows of each of its runs."""

    runs: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
    tables: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    broken: Callable[[str], None] = lambda doing: None

    def connect(self, target: Target) -> "Connection":
        self.broken("connect")
        self.targets.append(target)
        name = target.id or f"run{len(self.runs) + 1}"
        self.runs.setdefault(name, [])
        return Connection(self, name)


@dataclass
class Connection:
    server: Server
    id: str
    about: str = ""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.server.broken(f"log {step}")
        self.server.runs[self.id].append((step, dict(row)))

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.server.broken("table")
        self.server.tables.append(step)

    def close(self) -> None:
        self.server.broken("close")
        self.server.ended.append(self.id)


@dataclass
class Run:
    """A run folder, its metrics, and what the user was told."""

    folder: Path
    server: Server = field(default_factory=Server)
    rows: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def tracker(self, **options: Any) -> Remote:
        target = Target(self.folder / "trackers/fake", "project", "run", {"train": {"steps": 3}})
        return Remote("fake", self.server.connect, target, history=lambda: self.rows, say=self.told.append, **options)

    def log(self, tracker: Remote, *steps: int, **more: float) -> None:
        """Log steps as a journal does: to metrics.jsonl first."""
        for step in steps:
            row = {"loss": step / 2, **more}
            self.rows = [one for one in self.rows if one["step"] != step] + [{"step": step, **row}]
            tracker.log(step, row)

    def cut_back(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def losses(*steps: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"loss": step / 2}) for step in steps]


def test_rows_arrive_in_order_and_the_run_is_ended(run: Run) -> None:
    tracker = run.tracker()
    tracker.rewind(None)
    run.log(tracker, 0, 1, 2)
    tracker.log_rollouts(2, [])
    tracker.close()
    assert run.server.runs == {"run1": losses(0, 1, 2)}
    assert (run.server.tables, run.server.ended, run.told) == ([2], ["run1"], [])


def test_a_resumed_run_continues_the_same_run_of_the_service(run: Run) -> None:
    first = run.tracker()
    first.rewind(None)
    run.log(first, 0, 1, 2)
    first.close()
    second = run.tracker()
    second.rewind(2)
    run.log(second, 3)
    second.close()
    assert run.server.runs == {"run1": losses(0, 1, 2, 3)}
    assert run.told == []


def test_steps_that_are_logged_again_go_to_a_new_run_that_has_the_others(run: Run) -> None:
    first = run.tracker()
    first.rewind(None)
    run.log(first, 0, 1, 2, 3)
    first.close()
    run.cut_back(1)
    second = run.tracker()
    second.rewind(1)
    run.log(second, 2, more=7.0)
    second.close()
    assert run.server.runs["run2"] == [*losses(0, 1), (2, {"loss": 1.0, "more": 7.0})]
    assert run.server.targets[-1].replaces == "run1"
    assert run.told == ["fake: a new run, filled from metrics.jsonl, replaces run1, because steps are logged again"]


def test_a_tracker_added_when_a_run_is_resumed_gets_the_steps_before(run: Run) -> None:
    run.rows = [{"step": step, "loss": step / 2} for step in (0, 1)]
    tracker = run.tracker()
    tracker.rewind(1)
    run.log(tracker, 2)
    tracker.close()
    assert run.server.runs == {"run1": losses(0, 1, 2)}


def test_of_a_step_that_is_extended_only_the_new_figures_are_sent(run: Run) -> None:
    first = run.tracker()
    first.rewind(None)
    run.log(first, 1)
    first.close()
    second = run.tracker()
    second.rewind(1)
    run.log(second, 1, accuracy=0.5)
    second.close()
    assert run.server.runs == {"run1": [(1, {"loss": 0.5}), (1, {"accuracy": 0.5})]}


def test_values_that_are_not_finite_are_left_out(run: Run) -> None:
    tracker = run.tracker()
    tracker.rewind(None)
    tracker.log(1, {"loss": None, "reward": 1.0})
    tracker.close()
    assert run.server.runs == {"run1": [(1, {"reward": 1.0})]}


def test_an_unreachable_service_is_told_once_and_counted_and_made_up_for(run: Run) -> None:
    def unreachable(doing: str) -> None:
        raise ConnectionError("no route\nto \x1b[31mhost")

    run.server.broken = unreachable
    tracker = run.tracker()
    tracker.rewind(None)
    run.log(tracker, 0, 1, 2)
    tracker.log_rollouts(1, [])
    tracker.close()
    reason = "ConnectionError: no route to [U+001B][31mhost"
    assert run.told == [
        f"fake: {reason}; the run goes on",
        f"fake: 3 rows and 1 table not sent: {reason}; a resumed run sends the rows",
    ]
    run.server.broken = lambda doing: None
    again = run.tracker()
    again.rewind(2)
    run.log(again, 3)
    again.close()
    assert run.server.runs == {"run1": losses(0, 1, 2, 3)}


def test_a_row_that_is_lost_on_the_way_is_counted_and_a_resumed_run_has_it(run: Run) -> None:
    def once(doing: str) -> None:
        if doing == "log 1":
            raise TimeoutError("slow")

    run.server.broken = once
    first = run.tracker()
    first.rewind(None)
    run.log(first, 0, 1, 2)
    first.close()
    assert run.server.runs == {"run1": losses(0, 2)}
    assert run.told[-1] == "fake: 1 row not sent: TimeoutError: slow; a resumed run sends the rows"
    run.server.broken = lambda doing: None
    second = run.tracker()
    second.rewind(2)
    run.log(second, 3)
    second.close()
    assert run.server.runs["run2"] == losses(0, 1, 2, 3)
    assert run.told[-1].endswith("replaces run1, because it lacks some steps")


def test_a_service_that_hangs_holds_up_neither_a_step_nor_the_end(run: Run) -> None:
    stuck = threading.Event()

    def hang(doing: str) -> None:
        stuck.wait(20)

    run.server.broken = hang
    tracker = run.tracker(patience_s=0.2, room=2)
    tracker.rewind(None)
    began = time.monotonic()
    run.log(tracker, *range(6))
    tracker.close()
    assert time.monotonic() - began < 5
    stuck.set()
    assert run.told[0] == "fake: 2 rows were waiting; the run goes on"
    assert run.told[-1] == "fake: 6 rows not sent: no answer within 0.2 s; a resumed run sends the rows"


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("table", "fake: 1 table not sent: no answer within 0.2 s"),
        ("close", "fake: no answer within 0.2 s while the run was being closed there; it may lack the last rows"),
    ],
)
def test_what_was_on_its_way_is_counted_as_what_it_is(run: Run, where: str, told: str) -> None:
    stuck, reached = threading.Event(), threading.Event()

    def hang(doing: str) -> None:
        if doing == where:
            reached.set()
            stuck.wait(20)

    run.server.broken = hang
    tracker = run.tracker(patience_s=0.2)
    tracker.rewind(None)
    run.log(tracker, 1, 2)
    tracker.log_rollouts(2, [])
    assert where == "close" or reached.wait(5)
    tracker.close()
    stuck.set()
    assert run.told == [told]
    assert run.server.runs["run1"] == losses(1, 2)


def test_a_failure_at_the_end_is_told(run: Run) -> None:
    def at_the_end(doing: str) -> None:
        if doing == "close":
            raise OSError("disconnected")

    run.server.broken = at_the_end
    tracker = run.tracker()
    tracker.rewind(None)
    run.log(tracker, 1)
    tracker.close()
    assert run.told == ["fake: OSError: disconnected; the run goes on"]


def test_a_full_disk_ends_the_run(run: Run) -> None:
    (run.folder / "trackers").write_text("a file in place of the folder")
    tracker = run.tracker()
    tracker.rewind(None)
    with pytest.raises(OSError, match="trackers"):
        tracker.log(1, {"loss": 1.0})


def test_a_damaged_record_of_the_run_starts_a_new_one(run: Run) -> None:
    first = run.tracker()
    first.rewind(None)
    run.log(first, 1)
    first.close()
    (file,) = (run.folder / "trackers/fake").glob("*.json")
    assert json.loads(file.read_text())["id"] == "run1"
    file.write_text("{")
    second = run.tracker()
    second.rewind(1)
    run.log(second, 2)
    second.close()
    assert run.server.runs["run2"] == losses(1, 2)


def test_a_library_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wandb").mkdir()  # W&B's own folder, where a run was started before, is not the library
    for path in [path for path in sys.path if (Path(path) / "wandb/__init__.py").exists()]:
        sys.path.remove(path)
    with pytest.raises(ConfigError, match=r"wandb is not installed; .* pip install 'edge-grpo\[wandb\]'"):
        check_installed(RunSettings(trackers=("tensorboard", "wandb")))
    check_installed(RunSettings())


def test_services_are_told_where_they_are_and_take_rollouts(tmp_path: Path) -> None:
    for each in open_trackers(RunSettings(trackers=("tensorboard", "wandb", "trackio", "mlflow")), tmp_path):
        assert isinstance(each, RolloutTracker)
        each.close()


def test_a_sample_of_rollouts_is_short_and_printable() -> None:
    rows = [{"group": number, "completion": "\x1b[31m" + "x" * 9000, "spans": []} for number in range(40)]
    found = sampled(rows, 4)
    assert [row["group"] for row in found] == [0, 10, 20, 30]
    assert tuple(found[0]) == COLUMNS
    assert found[0]["completion"].startswith("[U+001B][31m")
    assert found[0]["completion"].endswith("... (9005 characters)")
    assert len(sampled(rows[:2], 4)) == 2
    assert sampled([], 4) == []
