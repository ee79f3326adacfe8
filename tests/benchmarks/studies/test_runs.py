"""Runs that are what they claim to be."""

import json
from pathlib import Path

from studies.runs import RATES, Arm, Measured, job, words

from edge_grpo.config.tree import load_config


def test_the_settings_for_all_arms_come_last() -> None:
    arm = Arm("a", "A", ("method=grpo", "train.steps=3"))
    assert words(arm, ["train.steps=9"])[-1] == "train.steps=9"
    assert load_config(None, words(arm, ["train.steps=9"])).train.steps == 9
    assert load_config(None, words(Arm("b", "B", ()), [])).method.kind == "edge_grpo"


def test_a_job_has_its_own_folder_rate_and_seed() -> None:
    made = job(Arm("a", "A", ("method=grpo",)), RATES[1], 2, "f", ["train.steps=3"])
    config = load_config(None, list(made.overrides))
    assert made.folder == "f/a-lr0.0002-seed2"
    assert (config.train.learning_rate, config.train.seed, config.train.steps) == (RATES[1], 2, 3)
    assert not config.eval.at_start


def test_a_result_on_disk_is_read(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"validation": [True, False], "test": [True, True, False, True], "seconds": 3.0}))
    read = Measured.read(file, arm="a", rate=1e-4, seed=0)
    assert (read.validation, read.accuracy, read.figures["seconds"]) == (0.5, 0.75, 3.0)
