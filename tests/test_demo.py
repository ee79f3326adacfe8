"""The embedded default works as documented, and every method learns the built-in task. Slow: takes minutes."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from edge_grpo.base.metrics import means
from edge_grpo.config.tree import load_config
from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.methods import METHODS
from edge_grpo.methods.grpo import Grpo
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.open import open_sampler
from edge_grpo.training.collect import Collector, describe, stream
from edge_grpo.training.loop import train

pytestmark = pytest.mark.slow


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_base_model_leaves_many_groups_collapsed_for_both_reasons() -> None:
    with open_sampler(load_config()) as sampler:
        prompts = sampler.encode(problems(ArithmeticSettings(), count=1000), max_new_tokens=96).prompts
        collector = Collector(sampler, Grpo(), sampling=Sampling(96), group_size=8, seed=0)
        collected = collector.collect(stream(prompts, seed=0, start=0), step=0, num_groups=400)
    figures = means(describe(collected.groups, collected.groups))
    assert 0.4 <= figures["collapse/before"] <= 0.8
    assert figures["collapse/before_all_wrong"] > 0.2
    assert figures["collapse/before_all_right"] > 0


def test_the_demo_raises_held_out_accuracy_and_holds_it(tmp_path: Path) -> None:
    written = rows(train(load_config(None, [f"run.dir={tmp_path / 'run'}"])).folder)
    accuracy = [row["eval/accuracy"] for row in written if "eval/accuracy" in row]
    assert len(accuracy) == 7
    assert accuracy[-1] >= accuracy[0] + 0.25
    assert accuracy[-1] >= max(accuracy) - 0.05
    early = written[1:6]
    before, after = (statistics.mean(row[f"collapse/{when}"] for row in early) for when in ("before", "after"))
    assert before >= 0.3
    assert after <= before / 2


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_learns_the_built_in_task(tmp_path: Path, kind: str) -> None:
    words = [f"method={kind}", "train.steps=40", "train.learning_rate=2e-4", "eval.every=0", "eval.size=100"]
    updates = ["train.mini_batches=2"] if kind in ("gspo", "cispo", "sapo", "luspo", "vespo") else []
    words.append("train.max_tokens=40000")
    written = rows(train(load_config(None, [*words, *updates, f"run.dir={tmp_path / 'run'}"])).folder)
    assert written[-1]["eval/accuracy"] >= written[0]["eval/accuracy"] + 0.2
