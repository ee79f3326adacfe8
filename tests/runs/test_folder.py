"""The run folder: locked, written line by line, cut back to a step."""

import errno
import fcntl
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import NoReturn

import pytest

from edge_grpo.base.errors import CheckpointError, ConfigError
from edge_grpo.runs.durable import is_open_as, take_lock
from edge_grpo.runs.folder import RunFolder

TREE = {"method": {"kind": "grpo"}}


Make = Callable[[Path | str], RunFolder]


def create(path: Path | str) -> RunFolder:
    return RunFolder.create(str(path), TREE, "method: {kind: grpo}\n", "abc")


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes run folders and closes them at the end."""
    made = []

    def one(path: Path | str) -> RunFolder:
        made.append(create(path))
        return made[-1]

    yield one
    for folder in made:
        folder.close()


def test_rows_are_json_even_where_numbers_are_not(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    folder.write_metrics({"step": 1, "x": float("nan"), "y": float("inf"), "z": 2.5})
    assert list(folder.rows()) == [{"step": 1, "x": None, "y": None, "z": 2.5}]


def test_cutting_back_keeps_what_came_before(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    for step in range(4):
        folder.write_metrics({"step": step, "loss": 1.0})
        if step:
            folder.write_rollouts(step, [{"step": step, "spans": []}])
    folder.close()
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert folder.cut_back(2) == []
    folder.close()
    assert [row["step"] for row in folder.rows()] == [0, 1, 2]
    names = sorted(path.name for path in (folder.path / "rollouts").iterdir())
    assert names == ["step_000001.parquet", "step_000002.parquet"]
    assert folder.cut_back(None) == []
    assert list(folder.rows()) == []


@pytest.mark.parametrize("damage", [b'{"step": 1, "lo', b"\xff\xfe", b"[1]", b'{"loss": 1.0}', b"[" * 9999, b"\0" * 40])
def test_a_damaged_line_is_only_skipped_at_the_end(tmp_path: Path, make: Make, damage: bytes) -> None:
    folder = make(tmp_path / "run")
    for step in range(3):
        folder.write_metrics({"step": step})
    file = folder.path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, damage]))
    assert [row["step"] for row in folder.rows()] == [0, 1, 2]
    file.write_bytes(lines[0] + damage + b"\n" + lines[2])
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: damaged .* delete it to resume"):
        folder.cut_back(2)
    assert file.read_bytes() == before
    file.write_bytes(lines[0] + lines[2])
    assert folder.cut_back(2) == [1]


def test_the_configuration_is_read_back_with_its_hash(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    assert RunFolder.read_config(folder.path) == ({"method": {"kind": "grpo"}}, "abc")
    for text in ("[", "3\n"):
        (folder.path / "config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match="pass a run folder"):
            RunFolder.read_config(folder.path)


def test_a_used_or_impossible_folder_is_refused(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "run")
    with pytest.raises(ConfigError, match="already holds a run"):
        create(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        create(tmp_path / "file" / "below")


def test_without_a_name_the_next_free_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(make("").path) for _ in range(2)] == ["runs/grpo-1", "runs/grpo-2"]


@pytest.mark.parametrize("name", ["checkpoints", "final", "events", "rollouts"])
def test_files_that_a_new_run_would_overwrite_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"has {name} but no run"):
        create(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def test_a_run_that_never_began_leaves_no_trace(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    folder.cut_back(None)
    folder.discard_unstarted()
    assert not folder.path.exists()
    folder.close()
    begun = make(tmp_path / "run")
    begun.write_metrics({"step": 0})
    begun.discard_unstarted()
    assert (begun.path / "config.yaml").exists()


def test_one_process_at_a_time(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    other = RunFolder(folder.path)
    with pytest.raises(CheckpointError, match="another process"):
        other.lock()
    folder.close()
    with closing(other):
        other.lock()


def _try_to_create(path: Path, start: Barrier, done: Event, results: "Queue[str]") -> None:
    start.wait()
    try:
        folder = create(path)
    except (CheckpointError, ConfigError) as error:
        results.put(str(error))
    else:
        folder.write_metrics({"step": 0})
        results.put("")
        done.wait(60)  # until all have tried
        folder.close()


def test_of_runs_started_at_once_in_one_folder_one_continues(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        path, start, done, results = tmp_path / str(number), context.Barrier(5), context.Event(), context.Queue()
        arguments = (path, start, done, results)
        processes = [context.Process(target=_try_to_create, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        start.wait()
        said = sorted(results.get(timeout=60) for _ in processes)
        assert said[0] == ""
        assert all("another process" in text or "already holds a run" in text for text in said[1:])
        assert (path / "config.yaml").exists()
        assert (path / ".lock").exists()
        done.set()
        for process in processes:
            process.join(60)


def test_a_loser_discards_nothing_of_the_winners(tmp_path: Path) -> None:
    """The winner holds the lock and has written nothing yet."""
    (tmp_path / "run").mkdir()
    winner, _ = take_lock(tmp_path / "run/.lock")
    with winner:
        with pytest.raises(CheckpointError, match="another process"):
            create(tmp_path / "run")
        assert is_open_as(winner, tmp_path / "run/.lock")


def test_a_deleted_lock_ends_the_run_before_its_next_write(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "run")
    folder.write_metrics({"step": 0})
    (folder.path / ".lock").unlink()
    other = RunFolder(folder.path)
    with closing(other):
        other.lock()
        for write in (lambda: folder.write_metrics({"step": 1}), lambda: folder.write_rollouts(1, [{"spans": []}])):
            with pytest.raises(CheckpointError, match="lock was deleted"):
                write()
        other.write_metrics({"step": 1})
    assert [row["step"] for row in folder.rows()] == [0, 1]


def test_a_file_system_without_locks_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with closing(create(tmp_path / "run")) as folder:
        assert not folder.has_lock
        folder.write_metrics({"step": 0})


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts"])
def test_write_errors_say_how_to_resume(tmp_path: Path, make: Make, name: str) -> None:
    folder = make(tmp_path / "run")
    if name == "metrics.jsonl":
        (folder.path / name).mkdir()
    else:
        (folder.path / name).write_text("in the way")
    with pytest.raises(
        CheckpointError, match=rf"{name}.*could not be written \(.*resume with: edge-grpo train --resume"
    ):
        folder.write_rollouts(1, [{"step": 1, "spans": []}])
        folder.write_metrics({"step": 1})
    (shutil.rmtree if name == "metrics.jsonl" else lambda path: path.unlink())(folder.path / name)
    folder.cut_back(None)
    folder.write_metrics({"step": 1})
    assert [row["step"] for row in folder.rows()] == [1]
