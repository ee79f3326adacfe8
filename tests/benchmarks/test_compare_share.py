"""Share-GRPO and its controls: every arm samples as much, and the page has every arm."""

from pathlib import Path

import pytest
from benchmarks.made_up import make_comparison
from compare_share import ARMS, SHARED, compare_share
from studies.command import Options
from studies.runs import RATES, job
from studies.share_page import write_page

from edge_grpo.config.tree import load_config
from edge_grpo.trackers.console import Silent


def test_every_arm_samples_twelve_answers_to_a_question() -> None:
    for arm in ARMS:
        config = load_config(None, list(job(arm, RATES[0], 0, "f", SHARED).overrides))
        assert config.rollout.group_size * config.method.needs.variants == 12
        assert config.data.task == "digits"
        assert config.model.path == "bundled-vision"
        assert config.train.mini_batches == (4 if arm.name == "share" or arm.name.endswith("four-updates") else 2)
        assert not any(name.endswith("flipped") for name in config.method.needs.transforms)


def test_the_page_compares_share_grpo_with_every_arm(tmp_path: Path) -> None:
    def right(arm: str) -> int:
        return 15 if arm == "share" else 9

    made = make_comparison(ARMS, right, transformed=True)
    write_page(tmp_path / "page.md", made, ())
    text = (tmp_path / "page.md").read_text()
    assert text.count("| Share-GRPO ") >= 2
    for arm in ARMS:
        assert f"| {arm.title} |" in text
    assert "| GRPO | +30.0 (+30.0 to +30.0;" in text
    assert "| better |" in text


@pytest.mark.slow
def test_a_tiny_comparison_from_end_to_end(tmp_path: Path) -> None:
    tiny = ("train.steps=1", "rollout.prompts_per_step=2", "data.digits.size=8")
    out = tmp_path / "page.md"
    compare_share(Options(str(out), str(tmp_path / "runs"), seeds=1, jobs=2, overrides=tiny), Silent())
    assert all(f"| {arm.title} |" in out.read_text() for arm in ARMS)
