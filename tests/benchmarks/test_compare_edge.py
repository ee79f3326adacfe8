"""The comparison of EDGE-GRPO's parts: the arms match their titles, share all other settings, and resume."""

import json
from pathlib import Path

import pytest
from compare_edge import ARMS, compare
from studies.command import Options
from studies.runs import RATES, job, words
from support import save_tiny

from edge_grpo.config.tree import load_config
from edge_grpo.trackers.console import Silent

METHODS = {arm.name: load_config(None, words(arm, [])).method for arm in ARMS}


def test_the_arms_match_their_titles() -> None:
    assert METHODS["grpo"].kind == METHODS["grpo-dynamic"].kind == "grpo"
    assert METHODS["grpo-dynamic"].needs.top_up.max_rounds == 3
    assert METHODS["edge"] == load_config().method
    assert METHODS["eda"].correction.amount == "none"
    assert METHODS["eda"].eda.enabled
    assert not METHODS["gec"].eda.enabled
    for name in ("force-reflection", "force-reflection-eda"):
        assert METHODS[name].correction.reflect == 1
        assert METHODS[name].eda.enabled == (name == "force-reflection-eda")
    assert METHODS["edge-balanced"].correction.amount == "balanced"
    assert METHODS["matched"].kind == "grpo_matched"
    assert not METHODS["matched"].eda.enabled


def test_no_arm_is_tuned_alone() -> None:
    jobs = [job(arm, rate, 0, "f", ["train.steps=3"]) for arm in ARMS for rate in RATES]
    trees = [load_config(None, list(each.overrides)) for each in jobs]
    for name in ("rollout", "data", "reward", "model", "eval"):
        assert len({repr(getattr(tree, name)) for tree in trees}) == 1
    rates = {
        arm.name: {t.train.learning_rate for t, j in zip(trees, jobs, strict=True) if j.arm == arm.name} for arm in ARMS
    }
    assert all(found == set(RATES) for found in rates.values())


@pytest.mark.slow
def test_a_tiny_comparison_from_end_to_end(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    tiny = (f"model.path={model}", "train.steps=1", "rollout.max_new_tokens=6", "rollout.prompts_per_step=2")
    out = tmp_path / "page.md"
    options = Options(str(out), str(tmp_path / "runs"), seeds=2, jobs=2, overrides=tiny)
    compare(options, Silent())
    page = out.read_text()
    assert page.count("| EDGE-GRPO |") == 2
    result = tmp_path / "runs/edge-lr0.0001-seed0/result.json"
    before = result.stat().st_mtime_ns
    json.loads(result.read_text())
    compare(options, Silent())  # everything is on disk: nothing is retrained
    assert result.stat().st_mtime_ns == before
    assert out.read_text() == page
