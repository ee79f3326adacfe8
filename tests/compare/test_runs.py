"""Statistics of comparisons by hand, and runs that are what they say."""

import json
import math

import pytest
from compare.study import measured

from edge_grpo.compare.runs import RATES, Arm, Measured, job, paired_difference, t_interval, words
from edge_grpo.config.tree import load_config


def test_t_interval_by_hand():
    mean, low, high = t_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    half = 2.776 * math.sqrt(0.025) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert math.isnan(t_interval([0.5])[1])


def test_a_paired_difference_sees_through_common_noise():
    one = [measured("a", seed, right) for seed, right in enumerate([12, 15, 9])]
    two = [measured("b", seed, right) for seed, right in enumerate([10, 13, 7])]
    (mean, low, high), (least, most) = paired_difference(one, two)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert 0 <= least <= 0.1 <= most
    (_, low, high), _ = paired_difference(one, one)
    assert low == high == 0


def test_the_settings_for_all_arms_come_last():
    arm = Arm("a", "A", ("method=grpo", "train.steps=3"))
    assert words(arm, ["train.steps=9"])[-1] == "train.steps=9"
    assert load_config(None, words(arm, ["train.steps=9"])).train.steps == 9
    assert load_config(None, words(Arm("b", "B", ()), [])).method.kind == "edge_grpo"


def test_a_job_has_its_own_folder_rate_and_seed():
    made = job(Arm("a", "A", ("method=grpo",)), RATES[1], 2, "f", ["train.steps=3"])
    config = load_config(None, list(made.overrides))
    assert made.folder == "f/a-lr0.0002-seed2"
    assert (config.train.learning_rate, config.train.seed, config.train.steps) == (RATES[1], 2, 3)
    assert not config.eval.at_start


def test_a_result_on_disk_is_read(tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"validation": [True, False], "test": [True, True, False, True], "seconds": 3.0}))
    read = Measured.read(file, arm="a", rate=1e-4, seed=0)
    assert (read.validation, read.accuracy, read.figures["seconds"]) == (0.5, 0.75, 3.0)
