"""What trackers are shown of a run's rollouts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from small_runs import SMALL
from support import save_tiny

from edge_grpo.config.tree import load_config
from edge_grpo.trackers.base import COLUMNS
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import train


class Shown(Silent):
    """A tracker that takes rollouts."""

    def __init__(self) -> None:
        self.tables: dict[int, list[Mapping[str, Any]]] = {}

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[step] = list(rows)


def test_trackers_are_shown_some_rollouts_of_some_steps(tmp_path: Path) -> None:
    words = [f"model.path={save_tiny(tmp_path / 'model')}", *SMALL, "train.steps=4", "eval.every=0"]
    words += ["run.rollouts=false", "run.trackers=[]", "run.table_every=3"]
    shown, none = Shown(), Shown()
    train(load_config(None, [*words, "run.table_rows=2", f"run.dir={tmp_path / 'some'}"]), trackers=[shown])
    train(load_config(None, [*words, "run.table_rows=0", f"run.dir={tmp_path / 'none'}"]), trackers=[none])
    assert {step: len(rows) for step, rows in shown.tables.items()} == {1: 2, 4: 2}
    assert tuple(shown.tables[1][0]) == COLUMNS
    assert none.tables == {}
    assert not (tmp_path / "some/rollouts").exists()
