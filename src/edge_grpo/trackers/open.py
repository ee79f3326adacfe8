"""Open a run's trackers: the one place that knows all of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_grpo.config.sections import RunSettings
from edge_grpo.trackers.base import Opener, Tracker
from edge_grpo.trackers.tensorboard import TensorBoard

__all__ = ["open_trackers"]


def open_trackers(run: RunSettings, folder: Path, custom: Sequence[Tracker | Opener] = ()) -> Iterator[Tracker]:
    """The trackers that the ``run`` section asks for, then the custom ones.

    Args:
        run: the settings.
        folder: the run's own, for trackers that write files.
        custom: further trackers, or functions that open one.
    """
    if "tensorboard" in run.trackers:
        yield TensorBoard(folder / "events")
    for each in custom:
        yield each(folder) if callable(each) else each
