"""The Tracker protocol: where the metrics of a run go besides its own ``metrics.jsonl``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["Opener", "Tracker"]


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


Opener = Callable[[Path], Tracker]
"""Opens a tracker for the run in a folder; the class of a tracker whose only argument is that folder is one."""
