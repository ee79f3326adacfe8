"""The outcomes of a study's trials: one line of ``trials.jsonl`` each, on disk before the next trial starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from edge_grpo.base.errors import DataError
from edge_grpo.runs import workdir as kept
from edge_grpo.runs.durable import write_whole
from edge_grpo.tune.space import Value

__all__ = ["FILE", "State", "Trial", "append", "best_of", "drop_partial_line", "read"]

FILE = "trials.jsonl"
State = Literal["finished", "failed", "late", "stopped"]


@dataclass(frozen=True)
class Trial:
    """One trial: its settings and its outcome.

    ``state``: ``finished``, or ``failed``, ``late`` (over its time limit), ``stopped`` (hopeless), each of these with a
    ``reason`` and no ``parts``. ``parts`` are scores, ``whole`` is their weighted sum. ``seconds``: training and
    answering in its last process (for an unfinished trial, that whole process). ``curve``: held-out accuracy during
    training, as (step, accuracy).
    """

    number: int
    settings: Mapping[str, Value]
    state: State
    parts: Mapping[str, float] = field(default_factory=dict)
    whole: float | None = None
    seconds: float = 0.0
    reason: str = ""
    curve: tuple[tuple[int, float], ...] = ()


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the highest whole; ties go to the first."""
    finished = [trial for trial in trials if trial.whole is not None]
    return max(finished, key=lambda trial: (trial.whole or 0.0, -trial.number)) if finished else None


def append(folder: Path, trial: Trial) -> None:
    """Append a trial in one write, and wait until it is on disk.

    Raises:
        ConfigError: the file cannot be written.
    """
    kept.append(folder / FILE, [trial])


def read(folder: Path) -> list[Trial]:
    """All recorded trials, by number; a last line cut off by a kill is ignored.

    Raises:
        DataError: any other line is damaged, or two lines belong to the same trial.
    """
    path = folder / FILE
    trials: dict[int, Trial] = {}
    for number, trial in enumerate(_parsed(path, _whole_lines(path)), 1):
        if trial.number in trials:
            raise DataError(f"{path}, line {number}: trial {trial.number} is recorded twice; delete one of the lines")
        trials[trial.number] = trial
    return [trials[number] for number in sorted(trials)]


def drop_partial_line(folder: Path) -> None:
    """Remove a last line cut off by a kill; the caller must be the file's only writer.

    Raises:
        DataError: the file is not text.
    """
    path = folder / FILE
    whole = _whole_lines(path)
    if path.exists() and len(whole) < path.stat().st_size:
        try:
            write_whole(path, whole.decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{path}: not a text file; move it away to rerun all trials") from None


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _parsed(path: Path, content: bytes) -> Iterator[Trial]:
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            yield _checked(_ADAPTER.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            reason = ".".join(map(str, first["loc"])) + ": " + first["msg"] if first["loc"] else first["msg"]
        except ValueError as error:
            reason = str(error)
        else:
            continue
        raise DataError(
            f"{path}, line {number}: not a trial ({reason}); fix the line, or delete it to rerun that trial"
        )


def _checked(trial: Trial) -> Trial:
    """The trial; ValueError if its state and its scores contradict each other."""
    finished = trial.state == "finished"
    if finished != (trial.whole is not None) or finished != bool(trial.parts):
        raise ValueError(f"state '{trial.state}' with whole {trial.whole} and {len(trial.parts)} parts")
    return trial


_ADAPTER = TypeAdapter(Trial)
