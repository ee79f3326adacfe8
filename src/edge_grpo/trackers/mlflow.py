"""MLflow: metrics by step, settings as parameters, and rollouts as JSON artifacts that its viewer shows as tables."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_grpo.trackers.base import COLUMNS
from edge_grpo.trackers.remote import Target

__all__ = ["MLflow"]

_CALM = {  # the library's own: some minutes, and lines about the tables of a new database
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_FORBIDDEN = re.compile(r"[^\w\-. :/]")
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000  # of one request, and of one parameter's text


class MLflow:
    """A run of an experiment, where ``MLFLOW_TRACKING_URI`` says, or else in the current folder.

    Characters that MLflow does not allow in names become ``_``.

    Args:
        target: the run; one that it replaces is deleted (MLflow keeps deleted runs until its garbage collection).
    """

    def __init__(self, target: Target) -> None:
        for name, value in _CALM.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415 - optional

        self._client = MlflowClient()
        if target.id:
            self.id = target.id
            self._client.update_run(self.id, status="RUNNING")
        else:
            self.id = self._start(target)
        self.about = f"run {self.id} of experiment {target.project} in {self._client.tracking_uri}"

    def _start(self, target: Target) -> str:
        from mlflow.entities import Param  # noqa: PLC0415 - optional

        experiment = self._client.get_experiment_by_name(target.project)
        place = experiment.experiment_id if experiment else self._client.create_experiment(target.project)
        run_id: str = self._client.create_run(place, run_name=target.name).info.run_id
        settings = [Param(_name(name), str(value)[:_LONGEST_PARAM]) for name, value in _flat(target.settings)]
        for start in range(0, len(settings), _MOST_PARAMS):
            self._client.log_batch(run_id, params=settings[start : start + _MOST_PARAMS])
        if target.replaces:
            self._client.delete_run(target.replaces)
        return run_id

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Send metrics in one request."""
        from mlflow.entities import Metric  # noqa: PLC0415 - optional

        at = int(1000 * (row.get("time/at") or time.time()))
        metrics = [Metric(_name(name), value, at, step) for name, value in row.items() if name != "time/at"]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.id, metrics=metrics[start : start + _MOST_METRICS])

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rollouts as an artifact."""
        table = {"columns": list(COLUMNS), "data": [[row[name] for name in COLUMNS] for row in rows]}
        self._client.log_dict(self.id, table, f"rollouts/step_{step:06d}.json")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self.id)


def _name(text: str) -> str:
    return _FORBIDDEN.sub("_", text)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
