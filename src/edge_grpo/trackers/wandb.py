"""Weights & Biases: metrics by step, and rollouts as tables; offline where there is no API key."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from edge_grpo.trackers.base import COLUMNS
from edge_grpo.trackers.remote import Target

__all__ = ["Wandb"]

_WAIT_S: Final = 20.0


class Wandb:
    """A run on a W&B server, or in the run folder (``trackers/wandb/wandb``) for ``wandb sync``.

    ``WANDB_MODE`` decides, or else whether there is an API key. Only settings, metrics and rollouts are sent: no code,
    no Git state, no list of packages, no console output. A step is a metric of its own, ``step``, and the x axis of all
    others: W&B's own step cannot be logged to twice.

    Args:
        target: the run.
    """

    def __init__(self, target: Target) -> None:
        import wandb  # noqa: PLC0415 - optional

        self._table = wandb.Table
        target.folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self.id = target.id or f"{target.name}-{uuid4().hex[:8]}"
        self._run = wandb.init(
            id=self.id,
            name=target.name,
            project=target.project,
            dir=str(target.folder),
            config=dict(target.settings),
            group=target.name,
            resume="allow" if target.id else "never",
            mode=mode,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_save_requirements=False,
                x_disable_meta=True,
                x_disable_stats=True,
                init_timeout=_WAIT_S,
                finish_timeout=_WAIT_S,
            ),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        place = Path(self._run.dir).parent
        self.about = (
            f"recorded offline; to send it: wandb sync {place}" if mode == "offline" else str(self._run.url or "")
        )

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Send metrics."""
        self._run.log({**row, "step": step})

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rollouts as a table."""
        table = self._table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])
        self._run.log({"rollouts": table, "step": step})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _has_key() -> bool:
    """Whether a server can be asked without a prompt for an API key."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    with suppress(OSError, NetrcParseError):
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False
