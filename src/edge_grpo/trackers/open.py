"""Open a run's trackers: the one place that knows all of them."""

from collections.abc import Iterator
from pathlib import Path

from edge_grpo.config.sections import RunSettings
from edge_grpo.trackers.base import Tracker
from edge_grpo.trackers.tensorboard import TensorBoard

__all__ = ["open_trackers"]


def open_trackers(run: RunSettings, folder: Path) -> Iterator[Tracker]:
    """The trackers that the ``run`` section asks for.

    Args:
        run: the settings.
        folder: the run's own, for trackers that write files.
    """
    if run.tensorboard:
        yield TensorBoard(folder / "events")
