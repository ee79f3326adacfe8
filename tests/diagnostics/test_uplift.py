"""Uplift: a model against itself shows no change; figures match hand calculations."""

from pathlib import Path

import pytest
import torch
from support import save_tiny

from edge_grpo.config.tree import Config, load_config
from edge_grpo.diagnostics.uplift import Uplift, measure, report


@pytest.fixture
def config() -> Config:
    words = ["rollout.max_new_tokens=5", "rollout.group_size=4", "reward.workers=1", "data.arithmetic.size=5"]
    return load_config(None, words)


def test_a_model_against_itself(config: Config, tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path / "model"))
    found = measure(config, before=folder, after=folder, num_problems=3)
    assert found.correct.shape == (3, 4)
    assert torch.equal(found.before, found.after)
    assert torch.equal(found.correct, found.correct_after)


def test_only_held_out_problems_are_measured(tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path / "model"))
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(f'{{"problem": "Compute {i}+1.", "answer": "{i + 1}"}}\n' for i in range(3)))
    words = [f"data.path={held_out}", f"data.eval_path={held_out}", "rollout.max_new_tokens=3", "rollout.group_size=2"]
    found = measure(load_config(None, [*words, "reward.workers=1"]), before=folder, after=folder, num_problems=7)
    assert found.correct.shape == (3, 2), "training problems would be repeated"


def test_the_report_by_hand() -> None:
    found = Uplift(
        correct=torch.tensor([[True, False, True, False]]),
        before=torch.tensor([[-1.0, -2.0, -3.0, -4.0]]),
        after=torch.tensor([[-0.5, -2.5, -3.5, -3.5]]),
        correct_after=torch.tensor([[True, True, True, False]]),
    )
    told = report(found)
    assert "pass@1: 50.0% -> 75.0%" in told
    assert "pass@4: 100.0% -> 100.0%" in told
    assert told[-4:] == [
        "answers 1-1 by likelihood before: right ones rose 100.0% of 1, wrong ones fell - of 0",
        "answers 2-2 by likelihood before: right ones rose - of 0, wrong ones fell 100.0% of 1",
        "answers 3-3 by likelihood before: right ones rose 0.0% of 1, wrong ones fell - of 0",
        "answers 4-4 by likelihood before: right ones rose - of 0, wrong ones fell 0.0% of 1",
    ]
