"""A run as its folder tells it: settings, metrics, and every completion with its group."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import DataError
from edge_grpo.report.groups import Kind, kind_of, near_bound
from edge_grpo.runs.completions import DATA, rollouts
from edge_grpo.runs.folder import RunFolder

__all__ = ["Drawn", "Entry", "NothingLoggedError", "Run", "read_run"]

_COLUMNS: Final = (
    *("step", "group", "sampled_group", "family", "variant", "source", "layer", "problem", "strategy", "dropped"),
    *("verdict", "verdict_before", "reward", "reward_before", "entropy"),
    *("advantage_before_shaping", "advantage", "trained"),
)
_UNGRADED: Final = "error"
_TOPPED_UP: Final = "dynamic_sampling"


class NothingLoggedError(DataError):
    """A run has not finished its first step, nor an evaluation before it; ``may_begin`` says whether it still can."""

    def __init__(self, message: str, *, may_begin: bool) -> None:
        super().__init__(message)
        self.may_begin = may_begin


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a rollout file without its text and tokens; the fields are the columns of those names."""

    step: int
    group: int
    sampled_group: int
    family: int
    variant: int
    source: int
    layer: int
    problem: str
    strategy: str
    dropped: str
    verdict: str
    verdict_before: str
    reward: float
    reward_before: float
    entropy: float | None
    advantage_before_shaping: float | None
    advantage: float | None
    trained: bool

    @property
    def is_own(self) -> bool:
        """Whether it was sampled so, and is not a copy under another variant, nor a correction added to its group."""
        return self.source == self.variant and self.sampled_group >= 0


@dataclass(frozen=True)
class Drawn:
    """A group as it was sampled: its kind before any correction, and as compared in training (None = dropped).

    ``layer`` is 2 for the revisions of an answer.
    """

    step: int
    number: int
    problem: str
    layer: int
    before: Kind
    after: Kind | None


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    ``rows`` are those of ``metrics.jsonl``; ``completions`` is empty if the run keeps no rollouts; ``data_columns`` are
    the user's own in the rollout files; ``is_live`` says whether a process is training in the folder.
    """

    name: str
    path: Path
    tree: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    completions: Sequence[Entry]
    data_columns: Sequence[str]
    is_live: bool

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def progress(self) -> str:
        """How far it is: its steps, of how many, and whether it is training, ended, or was cut off."""
        planned = int(self.tree.get("train", {}).get("steps") or 0)
        if self.is_live or planned <= self.num_steps or (self.path / "final").exists():
            return f"{self.num_steps} steps" if planned <= self.num_steps else f"{self.num_steps} of {planned} steps"
        return f"{self.num_steps} of {planned} steps, not finished"

    @property
    def samples(self) -> bool:
        """Whether it trains on groups that it samples, and not on stored pairs."""
        return not self.tree.get("data", {}).get("pairs")

    @property
    def notes(self) -> Sequence[str]:
        """What cannot be shown, and why."""
        if self.completions or not any(row["step"] for row in self.rows):
            return ()
        kept = self.tree.get("run", {}).get("rollouts", True) is not False
        why = "its rollout files are gone or empty" if kept else "it kept none (run.rollouts=false)"
        return (f"{self.name}: no rollouts, kinds of groups or always-dead prompts: {why}",)

    @cached_property
    def near(self) -> float:
        """The largest difference of rewards that counts as nearly constant in this run."""
        return near_bound(one.reward_before for one in self.completions if one.verdict_before != _UNGRADED)

    @cached_property
    def drawn(self) -> Sequence[Drawn]:
        """The groups as they were sampled, those that dynamic sampling dropped included."""
        groups: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        families: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        for one in self.completions:
            if one.is_own:
                groups[one.step, one.sampled_group].append(one)
            elif one.source != one.variant:
                families[one.step, one.family].append(one)
        return [
            Drawn(step, number, own[0].problem, own[0].layer, self._before(own), self._after(own, families))
            for (step, number), own in sorted(groups.items())
        ]

    def _before(self, own: Sequence[Entry]) -> Kind:
        return self._kind([(one.reward_before, one.verdict_before) for one in own])

    def _after(self, own: Sequence[Entry], shared: Mapping[tuple[int, int], Sequence[Entry]]) -> Kind | None:
        if own[0].dropped == _TOPPED_UP:
            return None
        others = [one for one in shared.get((own[0].step, own[0].family), ()) if one.variant == own[0].variant]
        return self._kind([(one.reward, one.verdict) for one in (*own, *others)])

    def _kind(self, graded: Sequence[tuple[float, str]]) -> Kind:
        rewards = [None if verdict == _UNGRADED else reward for reward, verdict in graded]
        return kind_of(rewards, [verdict == "correct" for _, verdict in graded], near=self.near)

    def series(self, name: str) -> list[tuple[int, float]]:
        """The steps at which a metric has a value, with it."""
        return [(int(row["step"]), float(row[name])) for row in self.rows if row.get(name) is not None]

    def names(self, start: str) -> list[str]:
        """The metrics whose names start so, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name.startswith(start)))


def read_run(path: str | Path) -> Run:
    """Read a run's folder; the run may still be training.

    Raises:
        CheckpointError: there is no run, or its metrics are damaged.
        NothingLoggedError: there is no such folder, or the run has not logged anything yet.
        DataError: a rollout file cannot be read.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise NothingLoggedError(f"{root}: no such folder; name a run", may_begin=True)
    tree, _ = RunFolder.read_config(root)
    folder = RunFolder(root)
    try:
        rows = list(folder.rows())
    except OSError as error:
        raise DataError(f"{root}/metrics.jsonl: cannot be read ({error.strerror}); check its permissions") from None
    if not rows:
        why = "wait for the first" if folder.is_locked() else "it is not training; resume it, or name another run"
        raise NothingLoggedError(f"{root}: the run has not logged a step yet; {why}", may_begin=folder.is_locked())
    name = os.path.relpath(root) if not os.path.relpath(root).startswith("..") else root.name
    files = sorted((root / "rollouts").glob("step_*.parquet"))
    own = [column for column in _names(files[-1]) if column.startswith(DATA)] if files else []
    return Run(name, root, tree, rows, tuple(_completions(root)), own, folder.is_locked())


def _names(file: Path) -> list[str]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow imports, needed here only

    try:
        return list(pq.read_schema(file).names)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as parquet: {error}") from None


def _completions(root: Path) -> Iterator[Entry]:
    table = rollouts(root, columns=_COLUMNS)
    columns: dict[str, Sequence[Any]] = {name: table[name].to_pylist() for name in _COLUMNS}
    columns["sampled_group"] = [
        group if number is None else number
        for number, group in zip(columns["sampled_group"], columns["group"], strict=True)
    ]  # runs of earlier versions have no such column
    yield from map(Entry, *columns.values())
