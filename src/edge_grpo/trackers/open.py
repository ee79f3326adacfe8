"""Open a run's trackers: the one place that knows all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.sections import RunSettings
from edge_grpo.trackers.base import Opener, Tracker
from edge_grpo.trackers.mlflow import MLflow
from edge_grpo.trackers.remote import Remote, Service, Target
from edge_grpo.trackers.tensorboard import TensorBoard
from edge_grpo.trackers.trackio import Trackio
from edge_grpo.trackers.wandb import Wandb

__all__ = ["check_installed", "open_trackers"]

_SERVICES: Final[dict[str, Callable[[Target], Service]]] = {"wandb": Wandb, "trackio": Trackio, "mlflow": MLflow}


def check_installed(run: RunSettings) -> None:
    """Check that the libraries of the trackers are there, before anything is loaded.

    Raises:
        ConfigError: names the extra to install.
    """
    for name in run.trackers:
        found = find_spec(name) if name in _SERVICES else None
        if name in _SERVICES and (found is None or found.origin is None):  # a mere folder of that name has no origin
            raise ConfigError(
                f"run.trackers: {name} is not installed; install it with: pip install 'edge-grpo[{name}]' (in a clone: "
                f"pip install -e '.[{name}]')"
            )


def open_trackers(
    run: RunSettings,
    folder: Path,
    custom: Sequence[Tracker | Opener] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    history: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
    say: Callable[[str], None] = print,
) -> Iterator[Tracker]:
    """The trackers that the ``run`` section asks for, then the custom ones.

    Args:
        run: the settings.
        folder: the run's own, for trackers that write files.
        custom: further trackers, or functions that open one.
        settings: the resolved settings of the run, which services are told.
        history: the rows of ``metrics.jsonl``.
        say: shows a line to the user.
    """
    for name in run.trackers:
        if name == "tensorboard":
            yield TensorBoard(folder / "events")
        else:
            target = Target(folder / "trackers" / name, run.project, folder.resolve().name, settings or {})
            yield Remote(name, _SERVICES[name], target, history=history, say=say)
    for each in custom:
        yield each(folder) if callable(each) else each
