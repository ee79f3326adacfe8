"""A run's folder: configuration, metrics, rollouts, checkpoints; all can be cut back to a step to resume from."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from edge_grpo.base.errors import CheckpointError, ConfigError
from edge_grpo.base.job import resume_command
from edge_grpo.runs.completions import table_of
from edge_grpo.runs.durable import flush, is_locked, is_open_as, saving, take_lock, write_whole
from edge_grpo.runs.starts import STARTS

__all__ = ["RunFolder"]

_OWN = (STARTS, "metrics.jsonl", "checkpoints", "rollouts", "events", "profile", "final")


class RunFolder:
    """The files of one run.

    ``config.yaml`` (resolved settings, their hash in the first line), ``starts.jsonl`` (one object per start),
    ``metrics.jsonl`` (one object per step), ``rollouts/step_000001.parquet``, ``checkpoints/``, ``final/``; trackers
    may add files of their own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self._lock: IO[str] | None = None
        self.has_lock = True  # False if the file system does not support locks

    @classmethod
    def create(cls, directory: str, tree: Mapping[str, Any], text: str, digest: str) -> "RunFolder":
        """Create and lock the folder of a new run; if two processes try at once, one gets it.

        Args:
            directory: ``run.dir``; empty = the next free ``runs/<method>-<number>``.
            tree: the resolved settings.
            text: the same as YAML.
            digest: their hash.
        Raises:
            ConfigError: the folder already holds a run, or cannot be created.
            CheckpointError: another process is starting a run in it.
        """
        path = Path(directory).expanduser()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run.dir: {path} is a file; name a folder")
        if directory:
            _refuse_used(path)
        try:
            if directory:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path = _next_free(Path("runs"), str(tree["method"].get("kind", "own")))
            folder = cls(path)
            folder.lock()
            try:
                _refuse_used(path)  # another process may have started a run since the first check
                folder.write_config(text, digest)
            except BaseException:
                folder.close()
                raise
        except OSError as error:
            raise ConfigError(f"run.dir: {path} cannot be written ({error.strerror}); name another folder") from error
        return folder

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to resume: a checkpoint or a row of metrics."""
        metrics = self.path / "metrics.jsonl"
        return self.checkpoints.exists() or (metrics.exists() and metrics.stat().st_size > 0)

    def discard_unstarted(self) -> None:
        """Remove what :meth:`create` wrote if the run ended before it wrote anything else; call it while locked."""
        if self.has_begun:
            return
        with suppress(OSError):  # someone else's file, or a full disk
            for name in ("config.yaml", ".config.yaml", STARTS, "metrics.jsonl", ".metrics.jsonl", ".lock"):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def lock(self) -> None:
        """Keep other processes out of the folder until :meth:`close`, or until this process ends in any way.

        If the file system does not support locks, ``has_lock`` is False afterwards. Deleting the file ``.lock`` ends
        the run that holds it before its next write.

        Raises:
            CheckpointError: another process is using it.
            OSError: the folder cannot be written.
        """
        if self._lock is None:
            try:
                self._lock, self.has_lock = take_lock(self.path / ".lock")
            except BlockingIOError:
                raise CheckpointError(f"{self.path}: another process is training in this folder; wait for it") from None

    def is_locked(self) -> bool:
        """Whether a process is training in the folder."""
        return is_locked(self.path / ".lock")

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_lock(self) -> None:
        """Make sure that the lock is still there.

        Raises:
            CheckpointError: it was deleted.
        """
        if self._lock is not None and not is_open_as(self._lock, self.path / ".lock"):
            raise CheckpointError(
                f"{self.path}/.lock was deleted while this run held it, so another run may have started; this one ends "
                f"here. Resume with: {resume_command(self.path)}"
            )

    def write_config(self, text: str, digest: str) -> None:
        """Write the resolved settings, with their hash in the first line. Raises OSError."""
        write_whole(self.path / "config.yaml", f"# edge-grpo configuration {digest}\n{text}")

    @staticmethod
    def read_config(path: Path) -> tuple[dict[str, Any], str]:
        """The settings tree of an existing run and the hash it was saved with.

        Raises:
            CheckpointError: no run there.
        """
        try:
            text = (path / "config.yaml").read_text(encoding="utf-8")
            tree = yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            raise CheckpointError(f"{path} holds no run (no readable config.yaml); pass a run folder") from None
        if not isinstance(tree, dict):
            raise CheckpointError(f"{path}/config.yaml holds no settings; pass a run folder")
        first = text.split("\n", 1)[0].split()
        return tree, first[-1] if first else ""

    def cut_back(self, step: int | None) -> list[int]:
        """Drop what was written after ``step`` (None: everything), so that the run can resume from there.

        Returns:
            the steps up to there without a row in ``metrics.jsonl``; none, unless lines were removed by hand.
        Raises:
            CheckpointError: ``metrics.jsonl`` is damaged, or the disk is full or not writable.
        """
        kept = [row for row in self.rows() if row["step"] <= step] if step is not None else []
        with saving(self.path, self.path):
            write_whole(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
            for file in (self.path / "rollouts").glob("step_*.parquet"):
                if step is None or int(file.stem.removeprefix("step_")) > step:
                    file.unlink()
        return sorted({*range(1, (step or 0) + 1)} - {row["step"] for row in kept})

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; a last line cut off by a crash is skipped.

        Raises:
            CheckpointError: another line is damaged.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        lines = file.read_bytes().splitlines()
        for number, line in enumerate(lines, 1):
            row = _metrics_row(line)
            if row is not None:
                yield row
            elif number < len(lines):
                raise CheckpointError(
                    f"{file}, line {number}: damaged (not a row of metrics); fix the line, or delete it to resume "
                    "without the figures of its step"
                )

    def write_metrics(self, row: Mapping[str, float]) -> dict[str, float | None]:
        """Append one step's row; non-finite numbers become null, because JSON cannot hold them.

        Returns:
            the row as written.

        Raises:
            CheckpointError: the disk is full or not writable, or the lock was deleted.
        """
        clean = _clean(row)
        self.check_lock()
        file = self.path / "metrics.jsonl"
        with saving(file, self.path), file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(clean) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        return clean

    def extend_metrics(self, row: Mapping[str, float]) -> dict[str, float | None]:
        """Add figures to the row of ``row["step"]``, which is written anew if it is missing; atomic.

        Returns:
            the figures as written.

        Raises:
            CheckpointError: ``metrics.jsonl`` is damaged, the disk is full or not writable, or the lock was deleted.
        """
        added = _clean(row)
        rows = {each["step"]: each for each in self.rows()}
        rows[added["step"]] = {**rows.get(added["step"], {}), **added}
        self.check_lock()
        with saving(self.path / "metrics.jsonl", self.path):
            write_whole(self.path / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in rows.values()))
        return added

    def write_rollouts(
        self, step: int, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None
    ) -> None:
        """Write all completions of a step as a parquet file; ``columns`` are those of the user's data.

        Raises:
            CheckpointError: the disk is full or not writable, or the lock was deleted.
        """
        import pyarrow.parquet as pq  # noqa: PLC0415 - slow import, needed here only

        table = table_of(rows, columns)
        self.check_lock()
        folder = self.path / "rollouts"
        draft, file = folder / f".step_{step:06d}.parquet", folder / f"step_{step:06d}.parquet"
        with saving(file, self.path):
            folder.mkdir(exist_ok=True)
            pq.write_table(table, draft, compression="zstd")
            flush(draft)
            draft.replace(file)
            flush(folder)


def _next_free(root: Path, name: str) -> Path:
    """Create the first of ``name-1``, ``name-2``, ... that does not exist; two processes never get the same one."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = root / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("endless")


def _refuse_used(path: Path) -> None:
    """Raise ConfigError if a new run would overwrite something."""
    if (path / "config.yaml").exists():
        raise ConfigError(
            f"run.dir: {path} already holds a run; resume it with `edge-grpo train --resume {path}`, or name another "
            "folder"
        )
    if taken := [name for name in _OWN if (path / name).exists()]:
        raise ConfigError(
            f"run.dir: {path} has {', '.join(taken)} but no run; a new run would overwrite them, so name another folder"
        )


def _clean(row: Mapping[str, float]) -> dict[str, float | None]:
    """A row as JSON can hold it."""
    return {name: value if isinstance(value, int) or abs(value) < float("inf") else None for name, value in row.items()}


def _metrics_row(line: bytes) -> dict[str, Any] | None:
    """A line of ``metrics.jsonl``; None if it is not a row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # cut off, not UTF-8, garbage
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
