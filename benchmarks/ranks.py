"""Do N ranks train what one trains? Every method, in one process and in several, as a Markdown table.

    python benchmarks/ranks.py                     all methods, 2 and 3 ranks against 1
    python benchmarks/ranks.py --only grpo,rpo     those whose names start so
    python benchmarks/ranks.py train.steps=6       with other settings

Per method: the largest difference of a final weight, of a step's loss and of a metric, and whether all rollouts are
equal. AdamW divides a gradient by its size, so that rounding in a gradient near zero changes a weight by up to the
learning rate per update: a few weights in a hundred thousand, by up to 2e-5 at a rate of 1e-4. About five minutes on
two idle cores.

RPO's `rewards/accuracies` is left out: at the first update the policy is the reference, and the figure counts the signs
of rounding.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rank_pool import Pool
from safetensors.torch import load_file
from torch import Tensor

from edge_grpo.config.tree import load_config
from edge_grpo.methods import METHODS
from edge_grpo.training.loop import train

SMALL = (
    "train.steps=3",
    "train.passes=2",
    "train.mini_batches=2",
    "train.micro_batch_rows=8",
    "train.learning_rate=1e-5",
    "rollout.prompts_per_step=5",
    "rollout.group_size=4",
    "rollout.max_new_tokens=48",
    "eval.every=0",
    "eval.size=10",
    "reward.workers=1",
    "run.trackers=[]",
)

SIGNS = "rewards/accuracies"


@dataclass(frozen=True)
class Difference:
    """How far two runs are apart.

    Args:
        weights: the largest difference of each final weight.
        metrics: the largest difference of each metric over the steps, but for RPO's share of pairs in order.
        relative: the same, divided by the larger of the two values.
        rollouts: the largest difference of a log-prob, entropy, advantage or reward among the rollouts; infinite unless
            all else is equal.
    """

    weights: Mapping[str, float]
    metrics: Mapping[str, float]
    relative: Mapping[str, float]
    rollouts: float

    @property
    def weight(self) -> float:
        """The largest difference of a final weight."""
        return max(self.weights.values())

    @property
    def loss(self) -> float:
        """The largest difference of a step's loss."""
        return self.metrics.get("loss", 0.0)

    @property
    def worst(self) -> tuple[str, float]:
        """The metric that differs most, by its value or by 1, whichever is larger, and how much."""
        both = {name: min(value, self.relative[name]) for name, value in self.metrics.items()}
        return max(both.items(), key=lambda pair: pair[1], default=("", 0.0))


def difference(one: Path, other: Path) -> Difference:
    """Compare the final weights, metrics and rollouts of two run folders."""
    first, second = final_weights(one), final_weights(other)
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    metrics, relative = _metrics(rows(one), rows(other))
    return Difference(
        weights={name: float((first[name].double() - second[name].double()).abs().max()) for name in first},
        metrics=metrics,
        relative=relative,
        rollouts=max((far for _, far in _rollouts(one, other)), default=0.0),
    )


def final_weights(folder: Path) -> dict[str, Tensor]:
    """The trained weights: adapters, or all of them."""
    adapter = folder / "final/adapter/adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "final/model.safetensors")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step without timings."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def _metrics(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[str, float]]:
    """The largest difference of each metric, as it is and divided by the larger value."""
    plain: dict[str, float] = {}
    relative: dict[str, float] = {}
    assert len(one) == len(other), f"{len(one)} rows of metrics and {len(other)}"
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys(), first.keys() ^ second.keys()
        for name, a in first.items():
            b = second[name]
            far = 0.0 if a == b else float("inf") if a is None or b is None else abs(a - b)
            if name == SIGNS:
                continue
            plain[name] = max(plain.get(name, 0.0), far)
            relative[name] = max(relative.get(name, 0.0), far / max(abs(a), abs(b)) if far else 0.0)
    return plain, relative


def _rollouts(one: Path, other: Path) -> Iterator[tuple[str, float]]:
    """How far the columns of two runs' rollouts are apart."""
    files, others = ({file.name for file in (each / "rollouts").glob("*.parquet")} for each in (one, other))
    yield from ((name, math.inf) for name in files ^ others)
    for name in files & others:
        first, second = (pq.read_table(each / "rollouts" / name) for each in (one, other))
        yield from ((column, math.inf) for column in set(first.column_names) ^ set(second.column_names))
        for column in set(first.column_names) & set(second.column_names):
            yield column, _far(first[column].to_pylist(), second[column].to_pylist())


def _far(one: Any, other: Any) -> float:
    """The largest difference of numbers, by their value if that is above 1; infinite unless all else is equal."""
    if isinstance(one, float) and isinstance(other, float):
        return 0.0 if repr(one) == repr(other) else abs(one - other) / max(1.0, abs(one))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(_far, one, other), default=0.0)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((_far(one[name], other[name]) for name in one), default=0.0)
    return 0.0 if one == other else math.inf


def trained(words: Sequence[str]) -> str:
    """Train with some settings; the run's folder."""
    return str(train(load_config(None, list(words))).folder)


def table(kinds: Sequence[str], words: Sequence[str], sizes: Sequence[int]) -> Iterator[str]:
    """The lines of the table, each as soon as it is known."""
    yield "| method | ranks | weights | loss | metrics | log-probs of rollouts | rollouts equal |"
    yield "|---|---|---|---|---|---|---|"
    pools = {size: Pool(size, timeout_s=600) for size in (1, *sizes)}
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:
            for size, pool in pools.items():
                pool.start(trained, [*SMALL, f"method={kind}", *words, f"run.dir={place}/{kind}-{size}"])
            folders = {size: Path(pool.results()[0]) for size, pool in pools.items()}
            for size in sizes:
                found = difference(folders[1], folders[size])
                name, far = found.worst
                figures = f"{found.weight:.1e} | {found.loss:.1e} | {far:.1e} ({name}) | {found.rollouts:.1e}"
                yield f"| {kind} | {size} | {figures} | {'yes' if found.rollouts < math.inf else 'no'} |"
    for pool in pools.values():
        pool.close()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="beginnings of names of methods, separated by commas")
    parser.add_argument("--sizes", default="2,3", help="numbers of ranks, separated by commas")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="further settings")
    arguments = parser.parse_args()
    kinds = [kind for kind in METHODS if kind.startswith(tuple(arguments.only.split(",")))]
    for line in table(kinds, arguments.words, [int(size) for size in arguments.sizes.split(",")]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
