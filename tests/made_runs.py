"""Run folders made without training: metrics and rollouts with chosen rewards and texts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_grpo.config.tree import config_hash, load_config, to_tree, to_yaml
from edge_grpo.runs.completions import data_columns, data_values
from edge_grpo.runs.folder import RunFolder

Row = dict[str, Any]


def answer(reward: float = 0.0, **columns: Any) -> Row:
    """A completion's columns; ``before`` is the reward before a correction."""
    before = columns.pop("before", reward)
    verdicts = {name: "correct" if value else "wrong" for name, value in (("now", reward), ("was", before))}
    return {
        "completion": f"it is {reward:g}",
        "completion_before": "",
        "strategy": "none",
        "verdict": verdicts["now"],
        "verdict_before": verdicts["was"],
        "note": "",
        "reward": float(reward),
        "reward_before": float(before),
        "reward_parts": [{"name": "accuracy", "value": float(reward)}],
        "images": [],
        "finished": True,
        "entropy": 0.25,
        "advantage_before_shaping": reward - 0.5,
        "advantage": 2 * reward - 1,
        "trained": True,
        "dropped": "",
        "prompt_ids": [1],
        "spans": [],
        **columns,
    }


def group(step: int, number: int, rows: Sequence[Row], **columns: Any) -> list[Row]:
    """The completions of a group; ``problem`` is named after its number unless it is given."""
    own = {
        "step": step,
        "problem": f"p{number}",
        "prompt": f"Question {number}?",
        "answer": "1",
        "group": number,
        "sampled_group": number,
        "family": number,
        "variant": 0,
        "source": 0,
        "layer": 1,
        "parent": -1,
        **columns,
    }
    return [{**own, **row} for row in rows]


def make_run(
    path: Path,
    steps: Mapping[int, Sequence[Row]],
    *settings: str,
    data: Callable[[Row], Mapping[str, object]] = lambda row: {},
    metrics: Callable[[int], Mapping[str, float]] = lambda step: {},
) -> Path:
    """Write a run's folder: the rows of each step, and metrics with what is counted from them."""
    config = load_config(None, list(settings))
    tree = to_tree(config)
    folder = RunFolder.create(str(path), tree, to_yaml(tree), config_hash(tree))
    columns = data_columns([data(row) for rows in steps.values() for row in rows])
    for step, rows in steps.items():
        folder.write_rollouts(step, [row | data_values(data(row), columns) for row in rows], columns)
        right = sum(row["verdict_before"] == "correct" for row in rows) / max(1, len(rows))
        counted = {"accuracy": right, "reward/before": right, "tokens": 100.0, "eval/accuracy": right}
        folder.write_metrics({"step": step, **counted, **metrics(step)})
    folder.close()
    return path
