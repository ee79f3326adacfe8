"""The comparison of all methods: one arm per method, with its own defaults."""

from pathlib import Path

import pytest
from compare_methods import ARMS, TOKENS, compare_methods
from studies.command import Options
from studies.runs import RATES, job
from support import save_tiny

from edge_grpo.config.tree import load_config
from edge_grpo.methods import METHODS
from edge_grpo.trackers.console import Silent


def test_every_method_is_an_arm_with_its_own_defaults() -> None:
    assert [arm.name for arm in ARMS] == list(METHODS)
    for arm in ARMS:
        config = load_config(None, list(job(arm, RATES[0], 0, "f", [f"train.max_tokens={TOKENS}"]).overrides))
        assert config.method == METHODS[arm.name]()
        assert config.train.max_tokens == TOKENS


@pytest.mark.slow
def test_a_tiny_comparison_from_end_to_end(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    tiny = (f"model.path={model}", "train.max_tokens=40", "rollout.max_new_tokens=6", "rollout.prompts_per_step=2")
    out = tmp_path / "page.md"
    compare_methods(Options(str(out), str(tmp_path / "runs"), seeds=1, jobs=2, overrides=tiny), Silent())
    assert all(f"| `{kind}` |" in out.read_text() for kind in METHODS)
