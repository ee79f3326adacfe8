"""A run's folder: configuration, metrics, rollouts, events. Everything can be cut back to a step for resuming."""

import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

import yaml

from edge_grpo.errors import CheckpointError, ConfigError
from edge_grpo.records import Problem, Row
from edge_grpo.tensors import Scored, Signal

__all__ = ["RunFolder", "rollout_rows"]

_OWN = ("metrics.jsonl", "checkpoints", "rollouts", "events", "final")


class RunFolder:
    """The files of one run.

    ``config.yaml`` (resolved settings, their hash in the first line), ``metrics.jsonl`` (one object a step),
    ``rollouts/step_000001.parquet``, ``events/`` (TensorBoard, made from the metrics), ``checkpoints/``, ``final/``.
    """

    def __init__(self, path: Path, *, tensorboard: bool) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self._tensorboard = tensorboard
        self._events: Any = None

    @classmethod
    def create(cls, directory: str, tree: Mapping[str, Any], text: str, digest: str) -> "RunFolder":
        """Make the folder of a new run.

        Args:
            directory: ``run.dir``; empty = the next free ``runs/<method>-<number>``.
            tree: the resolved settings.
            text: the same as YAML.
            digest: their hash.
        Raises:
            ConfigError: the folder holds a run already, or cannot be made.
        """
        path = Path(directory).expanduser()
        if (path / "config.yaml").exists() and directory:
            raise ConfigError(
                f"run.dir: {path} holds a run already; go on with `edge-grpo train --resume {path}`, "
                "or name another folder"
            )
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run.dir: {path} is a file; name a folder")
        taken = [name for name in _OWN if directory and (path / name).exists()]
        if taken:
            raise ConfigError(f"run.dir: {path} has {', '.join(taken)} but no run; a new run would overwrite them")
        try:
            if directory:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path = _next_free(Path("runs"), str(tree["method"].get("kind", "own")))
            folder = cls(path, tensorboard=bool(tree["run"]["tensorboard"]))
            folder.write_config(text, digest)
        except OSError as error:
            raise ConfigError(f"run.dir: {path} cannot be written ({error.strerror}); name another folder") from error
        return folder

    def discard_unstarted(self) -> None:
        """Take back what :meth:`create` made if the run ended before anything was written."""
        if any(self.rows()) or self.checkpoints.exists():
            return
        for name in ("config.yaml", "metrics.jsonl", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder while inside (where the system has ``flock``).

        Raises:
            CheckpointError: another process is at work in it.
        """
        if sys.platform == "win32":
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(f"{self.path}: another process trains in this folder; wait for it") from None
            yield

    def write_config(self, text: str, digest: str) -> None:
        """Write the resolved settings, their hash in the first line."""
        draft = self.path / ".config.yaml"
        draft.write_text(f"# edge-grpo configuration {digest}\n{text}", encoding="utf-8")
        draft.replace(self.path / "config.yaml")

    @staticmethod
    def read_config(path: Path) -> tuple[dict[str, Any], str]:
        """The settings tree of an existing run and the hash it was saved with.

        Raises:
            CheckpointError: there is no run.
        """
        try:
            text = (path / "config.yaml").read_text(encoding="utf-8")
            tree = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            raise CheckpointError(
                f"--resume: {path} holds no run (no readable config.yaml); give a run folder"
            ) from None
        if not isinstance(tree, dict):
            raise CheckpointError(f"--resume: {path}/config.yaml holds no settings; give a run folder")
        first = text.split("\n", 1)[0].split()
        return tree, first[-1] if first else ""

    def cut_back(self, step: int | None) -> None:
        """Drop what was written after ``step`` (None: everything), so that the run can go on from there."""
        kept = [row for row in self.rows() if step is not None and row["step"] <= step]
        draft = self.path / ".metrics.jsonl"
        draft.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        draft.replace(self.path / "metrics.jsonl")
        for file in (self.path / "rollouts").glob("step_*.parquet"):
            if step is None or int(file.stem.removeprefix("step_")) > step:
                file.unlink()
        shutil.rmtree(self.path / "events", ignore_errors=True)
        for row in kept:
            self._write_events(row)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; a last line cut off by a crash is left out."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return

    def write_metrics(self, row: Mapping[str, float]) -> None:
        """Append one step's row; non-finite numbers are written as null, which JSON can hold."""
        clean = {
            name: value if isinstance(value, int) or abs(value) < float("inf") else None for name, value in row.items()
        }
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._write_events(clean)

    def write_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all completions of a step as a parquet file."""
        import pyarrow as pa  # noqa: PLC0415 - slow imports, needed here only
        import pyarrow.parquet as pq  # noqa: PLC0415

        numbers = pa.list_(pa.float32())
        span = pa.struct(
            {"origin": pa.string(), "token_ids": pa.list_(pa.int64()), "logprobs": numbers, "entropies": numbers}
        )
        table = pa.Table.from_pylist([dict(row) for row in rows])
        place = table.schema.get_field_index("spans")
        table = table.set_column(place, "spans", pa.array([row["spans"] for row in rows], type=pa.list_(span)))
        folder = self.path / "rollouts"
        folder.mkdir(exist_ok=True)
        draft = folder / f".step_{step:06d}.parquet"
        pq.write_table(table, draft, compression="zstd")
        draft.replace(folder / f"step_{step:06d}.parquet")

    def close(self) -> None:
        """Flush the event file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write_events(self, row: Mapping[str, Any]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow import

            self._events = SummaryWriter(str(self.path / "events"))
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, row["step"])


def rollout_rows(
    step: int,
    problem_rows: Sequence[tuple[Problem, int, Row]],
    texts: Sequence[tuple[str, str]],
    batch: Scored,
    signal: Signal,
) -> list[dict[str, Any]]:
    """One plain dict a completion, for the parquet file.

    Args:
        step: the step's number.
        problem_rows: (problem, group number, row) of every completion, in the batch's order.
        texts: the completion's text, and its text before the correction (empty if there was none).
        batch: entropies, nats a token.
        signal: advantages before and after the method reshaped them.
    """
    entropy = (batch.entropy * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1)
    names = ("family", "variant", "source", "layer", "parent")
    values = zip(*(getattr(batch, name).tolist() for name in names), strict=True)
    relations = [dict(zip(names, own, strict=True)) for own in values]
    columns = zip(
        problem_rows,
        texts,
        entropy.tolist(),
        signal.raw_advantages.tolist(),
        signal.row_advantages.tolist(),
        signal.keep.tolist(),
        relations,
        strict=True,
    )
    return [
        {
            "step": step,
            "problem": problem.id,
            "prompt": problem.prompt,
            "group": group,
            **related,
            "answer": problem.answer,
            "completion": text,
            "completion_before": before,
            "strategy": str(row.strategy),
            "verdict": str(row.grade.verdict),
            "verdict_before": str(row.first_grade.verdict),
            "note": row.grade.note,
            "reward": row.grade.reward,
            "reward_before": row.first_grade.reward,
            "reward_parts": [{"name": name, "value": value} for name, value in row.grade.parts.items()],
            "finished": row.rollout.finished,
            "entropy": mean_entropy,
            "advantage_before_shaping": raw,
            "advantage": shaped,
            "trained": kept,
            "prompt_ids": list(row.rollout.prompt_ids),
            "spans": [
                {
                    "origin": span.segment.name.lower(),
                    "token_ids": list(span.token_ids),
                    "logprobs": list(span.logprobs),
                    "entropies": list(span.entropies),
                }
                for span in row.rollout.spans
            ],
        }
        for (problem, group, row), (text, before), mean_entropy, raw, shaped, kept, related in columns
    ]


def _next_free(root: Path, name: str) -> Path:
    """Make the first of ``name-1``, ``name-2``, ... that is not there; two processes never get the same."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = root / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("endless")
