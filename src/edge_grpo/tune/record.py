"""What became of the trials of a study: one line of ``trials.jsonl`` each, on the disk before the next one begins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from edge_grpo.base.errors import DataError
from edge_grpo.runs import workdir as kept
from edge_grpo.runs.durable import write_whole
from edge_grpo.tune.space import Value

__all__ = ["FILE", "State", "Trial", "append", "best_of", "mend", "read"]

FILE = "trials.jsonl"
State = Literal["finished", "failed", "late", "stopped"]


@dataclass(frozen=True)
class Trial:
    """One trial: what was set and what came of it.

    ``state``: ``finished``, or ``failed``, ``late`` (over its time), ``stopped`` (hopeless), each with a ``reason`` and
    no ``parts``. ``parts`` are scores, ``whole`` is their weighted sum. ``seconds`` are those of training and answering
    in its last process (of a trial that has not finished: of that whole process). ``curve``: held-out accuracy while it
    was trained, as (step, accuracy).
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
    """The finished trial with the highest whole, the first of equals."""
    finished = [trial for trial in trials if trial.whole is not None]
    return max(finished, key=lambda trial: (trial.whole or 0.0, -trial.number)) if finished else None


def append(folder: Path, trial: Trial) -> None:
    """Write a trial down, in one write, and wait until it is on the disk.

    Raises:
        ConfigError: it cannot be written.
    """
    kept.append(folder / FILE, [trial])


def read(folder: Path) -> list[Trial]:
    """The trials that are over, by number, but for a last line that a kill cut off.

    Raises:
        DataError: another line is damaged, or two are of one trial.
    """
    path = folder / FILE
    trials: dict[int, Trial] = {}
    for number, trial in enumerate(_parsed(path, _whole_lines(path)), 1):
        if trial.number in trials:
            raise DataError(f"{path}, line {number}: trial {trial.number} is there already; take one of the lines out")
        trials[trial.number] = trial
    return [trials[number] for number in sorted(trials)]


def mend(folder: Path) -> None:
    """Take a last line that a kill cut off out of the file; only for whoever alone writes there.

    Raises:
        DataError: the file is no text.
    """
    path = folder / FILE
    whole = _whole_lines(path)
    if path.exists() and len(whole) < path.stat().st_size:
        try:
            write_whole(path, whole.decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{path}: it is no text; take it out of the way to try all trials again") from None


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
            f"{path}, line {number}: not a trial ({reason}); mend the line, or take it out to try that trial again"
        )


def _checked(trial: Trial) -> Trial:
    """Raise ValueError where the state and the scores do not fit."""
    finished = trial.state == "finished"
    if finished != (trial.whole is not None) or finished != bool(trial.parts):
        raise ValueError(f"state '{trial.state}' beside whole {trial.whole} and {len(trial.parts)} parts")
    return trial


_ADAPTER = TypeAdapter(Trial)
