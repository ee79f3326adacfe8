"""Trackio: metrics by step and rollouts as tables, in its local database, on a Space or on a server of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from edge_grpo.trackers.base import COLUMNS, as_code
from edge_grpo.trackers.remote import Target

__all__ = ["Trackio"]


class Trackio:
    """A run in Trackio's database (``TRACKIO_DIR``, ``TRACKIO_SPACE_ID`` and ``TRACKIO_SERVER_URL`` say where).

    Args:
        target: the run; one that it replaces is deleted where it is in the local database.
    """

    def __init__(self, target: Target) -> None:
        import trackio  # noqa: PLC0415 - optional

        self.id = target.id or f"{target.name}-{uuid4().hex[:8]}"
        for run in trackio.Api().runs(target.project) if target.replaces else ():
            if run.name == target.replaces:
                run.delete()
        self._table = trackio.Table
        self._run = trackio.init(
            project=target.project,
            name=self.id,
            group=target.name,
            config=dict(target.settings),
            resume="allow" if target.id else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.about = ""  # trackio says it itself

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Hand metrics to trackio's own thread."""
        self._run.log(dict(row), step=step)

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over rollouts as a table; its viewer renders Markdown, so texts are code."""
        data = [[as_code(cell) if isinstance(cell, str) else cell for cell in map(row.get, COLUMNS)] for row in rows]
        self._run.log({"rollouts": self._table(columns=list(COLUMNS), data=data)}, step=step)

    def close(self) -> None:
        """Wait for trackio's thread."""
        self._run.finish()
