"""Small training runs that several test files start, interrupt, resume and read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edge_grpo.config.tree import Config
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import resume, train

ROOT = Path(__file__).parents[1]
ADAPTER = "final/adapter/adapter_model.safetensors"
SMALL = [
    "train.steps=6",
    "train.checkpoint_every=2",
    "rollout.max_new_tokens=12",
    "rollout.prompts_per_step=3",
    "rollout.group_size=4",
    "eval.size=6",
    "eval.every=2",
    "data.arithmetic.size=20",
    "reward.workers=1",
    "method.correction.max_new_tokens=110",
]


class Crash(Exception):
    """Stands for kill -9."""


class CrashAfter(Silent):
    """Ends the process, as the run sees it, when a step is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        if step == self.step:
            raise Crash


def weights(folder: Path | str) -> bytes:
    return (Path(folder) / "final/model.safetensors").read_bytes()


def rows(folder: Path | str) -> list[dict[str, Any]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def rollouts(folder: Path | str) -> list[list[dict[str, Any]]]:
    return [pq.read_table(file).to_pylist() for file in sorted((Path(folder) / "rollouts").glob("*.parquet"))]


def resumed(one: Config, two: Config) -> tuple[Path, Path]:
    """The folders of an uninterrupted run, and of the same run cut off before its last row and resumed."""
    straight = train(one).folder
    with pytest.raises(Crash):
        train(two, display=CrashAfter(2))
    return straight, resume(two.run.dir).folder


def documented(page: str) -> set[str]:
    """The names in the first columns of the tables of a page in docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return {name for cell in re.findall(r"^\| (`[^|]*) \|", text, re.M) for name in re.findall(r"`([^`]+)`", cell)}
