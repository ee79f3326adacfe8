"""A space file and trials shared by several test files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_grpo.tune.record import Trial
from edge_grpo.tune.space import Point, Space
from edge_grpo.tune.space_file import load_space
from edge_grpo.tune.suggest import suggest

TEXT = """
settings: [train.steps=2, eval.every=1]
space:
  train.learning_rate: {type: log, low: 1.0e-5, high: 1.0e-3}
  method.clip_low: {type: continuous, low: 0.05, high: 0.4, also: [method.clip_high]}
  train.passes: {type: integer, low: 1, high: 4}
  method.correction.amount: {type: categorical, values: [none, balanced, all]}
objective:
  weights: {3: 0.5, 4: 2}
  problems: 4
trials: 8
initial: 3
"""


def write_space(folder: Path, text: str = TEXT, name: str = "space.yaml") -> str:
    """Write a space file and return its path."""
    path = Path(folder) / name
    path.write_text(text)
    return str(path)


def space_of(folder: Path, text: str = TEXT) -> Space:
    """The space in such a file."""
    return load_space(write_space(folder, text))


def scores(settings: Mapping[str, Any]) -> dict[str, float]:
    """Made-up scores of both parts."""
    rate = settings["train.learning_rate"] * 1000
    return {"3": round(0.9 - rate / 4, 4), "4": round(rate * (1 - settings["method.clip_low"]), 4)}


def finished(number: int, settings: Point) -> Trial:
    """A finished trial with those scores."""
    parts = scores(settings)
    return Trial(number, dict(settings), "finished", parts, 0.5 * parts["3"] + 2 * parts["4"], 1.0)


def searched(space: Space, count: int) -> list[Trial]:
    """``count`` finished trials, the first three evenly spread."""
    found: list[Trial] = []
    for number in range(1, count + 1):
        found.append(finished(number, suggest(space, found, number=min(number, 3)).point))
    return found
