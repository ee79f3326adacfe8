"""A full or unwritable disk: one clear line, exit code 2, the last checkpoint intact, and the run resumes later."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults.fixtures import Command, Straight, Words
from small_runs import rollouts, rows, weights

from edge_grpo.training.checkpoint import latest, verify


def mount(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)


@contextmanager
def mounted(folder: Path, *words: object) -> Iterator[None]:
    """A mount on a folder, or a skipped test if this process may not mount."""
    done = mount(*words, folder)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_told(answer: dict[str, Any], *parts: str) -> None:
    """The command exited with code 2 and one line that says what went wrong, and where."""
    assert answer["code"] == 2, answer["out"]
    assert "Traceback" not in answer["out"]
    assert "Exception ignored" not in answer["out"]
    told = [line for line in answer["out"].splitlines() if line.startswith("edge-grpo: ")]
    assert answer["out"].strip().splitlines()[-1:] == told, answer["out"]
    for part in parts:
        assert part in told[0]


def check_goes_on(command: Command, words: Words, run: Path, straight: Path) -> None:
    if newest := latest(run / "checkpoints"):
        verify(newest)
    answer = command(["train", "--resume", str(run)] if (run / "config.yaml").exists() else words(run))
    assert answer["code"] == 0, answer["out"]
    assert weights(run) == weights(straight)
    assert rows(run) == rows(straight)
    assert rollouts(run) == rollouts(straight)


WRITTEN = [
    ("config", 1, "run.dir"),
    ("cut back", 1, "run"),
    ("start", 1, "starts.jsonl"),
    ("rollouts", 3, "rollouts/step_000003.parquet"),
    ("metrics", 3, "metrics.jsonl"),
    ("events", 4, "run (TensorBoard)"),
    ("checkpoint", 2, "checkpoints/step_000004"),
    ("whole draft", 2, "checkpoints/step_000004"),
    ("old checkpoint", 1, "checkpoints"),
    ("final", 1, "final"),
    ("final draft", 1, "final"),
    ("final swap", 1, "final"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "n", "where"), WRITTEN)
def test_every_file_that_meets_a_full_disk_is_named(
    command: Command, words: Words, straight: Straight, tmp_path: Path, point: str, n: int, where: str
) -> None:
    run = tmp_path / "run"
    answer = command(words(run), hits=[{"point": point, "n": n, "error": errno.ENOSPC}])
    assert answer["reached"] == [point]
    check_told(answer, where, os.strerror(errno.ENOSPC))
    check_goes_on(command, words, run, straight[0])


def test_a_file_size_limit_while_a_checkpoint_is_written(
    command: Command, words: Words, straight: Straight, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    check_told(command(words(run), file_size=60_000), "checkpoints/step_000002: could not be written", "File too large")
    assert not (run / "checkpoints/step_000002").exists()
    check_goes_on(command, words, run, straight[0])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_a_disk_that_fills_up_during_a_run(
    command: Command, words: Words, straight: Straight, tmp_path: Path, share: float
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    used = sum(path.stat().st_blocks * 512 for path in straight[0].rglob("*"))
    with mounted(disk, "-t", "tmpfs", "-o", f"size={int(share * used)}", "tmpfs"):
        check_told(command(words(disk / "run")), str(disk / "run"), os.strerror(errno.ENOSPC))
        assert mount("-o", "remount,size=64m", disk).returncode == 0
        check_goes_on(command, words, disk / "run", straight[0])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["checkpoints", "rollouts", "."])
def test_a_read_only_part_of_a_run_folder_is_one_line(
    command: Command, words: Words, straight: Straight, tmp_path: Path, part: str
) -> None:
    run = tmp_path / "run"
    assert command(words(run), hits=[{"point": "sampling", "n": 300, "signals": [15]}])["code"] == 143
    before = {path.relative_to(run): path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    with mounted(run / part, "--bind", run / part):
        assert mount("-o", "remount,ro,bind", run / part).returncode == 0
        check_told(command(["train", "--resume", str(run)]), str(run), os.strerror(errno.EROFS))
        assert {name: (run / name).read_bytes() for name in before} == before
    check_goes_on(command, words, run, straight[0])


@pytest.mark.slow
def test_a_damaged_checkpoint_names_the_last_intact_one_which_resumes(
    command: Command, words: Words, straight: Straight, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ["train.keep_checkpoints=3", "train.checkpoint_every=1"]
    assert command(words(run, *more), hits=[{"point": "sampling", "n": 300, "signals": [15]}])["code"] == 143
    newest = latest(run / "checkpoints")
    os.truncate(newest / "optimizer.safetensors", 9000)
    answer = command(["train", "--resume", str(run)])
    check_told(answer, f"{newest}: damaged (optimizer.safetensors", f"delete {newest} to resume from step_00000")
    subprocess.run(["rm", "-r", str(newest)], check=True)
    answer = command(["train", "--resume", str(run)])
    assert answer["code"] == 0, answer["out"]
    assert weights(run) == weights(straight[0])
    assert rows(run) == rows(straight[0])
