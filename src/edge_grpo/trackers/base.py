"""The Tracker protocol: where the metrics of a run go besides its own ``metrics.jsonl``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edge_grpo.base.text import visible

__all__ = ["COLUMNS", "Opener", "RolloutTracker", "Tracker", "as_code", "sampled"]

_LONGEST = 4000

COLUMNS = (
    *("group", "problem", "prompt", "completion", "reward", "verdict", "advantage", "entropy", "strategy"),
    *("finished", "trained"),
)
"""What trackers are shown of a rollout, of the columns of ``rollouts/``."""


@runtime_checkable
class Tracker(Protocol):
    """Receives one row of metrics per step; a new tracker takes one file, plus a line in ``trackers/open.py``."""

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Record the metrics of a step; None stands for a value that is not finite.

        Raises:
            OSError: they could not be written; the run ends with a one-line error and can be resumed.
        """

    def rewind(self, step: int | None) -> None:
        """Forget what was logged after ``step`` (None: everything); a resumed run logs these steps again."""

    def close(self) -> None:
        """End of the run, successful or not; everything logged must be stored when this returns."""


@runtime_checkable
class RolloutTracker(Tracker, Protocol):
    """A tracker that also takes a sample of a step's rollouts."""

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record some rollouts of a step; their columns are ``COLUMNS``.

        Texts are the model's: data, never markup or code.

        Raises:
            OSError: as for ``log``.
        """


Opener = Callable[[Path], Tracker]
"""Opens a tracker for the run in a folder; the class of a tracker whose only argument is that folder is one."""


def sampled(rows: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many rollouts, evenly spaced among all, in the columns that trackers are shown; long texts are cut.

    Example:
        >>> rows = [{"group": group, "completion": "x" * 5000} for group in range(9)]
        >>> found = sampled(rows, 3)
        >>> [row["group"] for row in found], found[0]["completion"][-27:], len(found[0]) == len(COLUMNS)
        ([0, 3, 6], 'xxx... (5000 characters)', True)
    """
    count = min(most, len(rows))
    return [{name: _cut(rows[place * len(rows) // count].get(name)) for name in COLUMNS} for place in range(count)]


def _cut(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return visible(cell if len(cell) <= _LONGEST else f"{cell[:_LONGEST]}... ({len(cell)} characters)")


def as_code(text: str) -> str:
    r"""Text as an indented block of Markdown, in which no character has a meaning.

    Example:
        >>> as_code("# no heading\n<b>not bold</b>")
        '    # no heading\n    <b>not bold</b>'
    """
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "
