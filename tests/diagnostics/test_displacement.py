"""Measuring displacement: always from the same weights, with consistent figures."""

import pytest
import torch
from support import PROBLEM, row, tiny_policy

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Group, Verdict
from edge_grpo.config.tree import load_config
from edge_grpo.diagnostics import displacement
from edge_grpo.diagnostics.displacement import ARMS, Displacement, measure, report
from edge_grpo.trackers.console import Silent
from edge_grpo.training.batching import collate

CONFIG = load_config(None, ["train.learning_rate=1e-4"])


def one() -> Displacement:
    policy = tiny_policy()
    rows = tuple(row(float(flag), verdict=Verdict.CORRECT if flag else Verdict.WRONG) for flag in (1, 0, 0, 1))
    batch = collate([Group(PROBLEM, rows)], parts=("accuracy",), weights=(1.0,), pad_id=0)
    before = [weight.detach().clone() for _, weight in policy.trained()]
    found = displacement._one(policy, batch, "p", CONFIG)
    assert all(torch.equal(old, new) for old, (_, new) in zip(before, policy.trained(), strict=True))
    return found


def test_a_question_leaves_the_weights_alone_and_gives_the_same_twice() -> None:
    first, again = one(), one()
    assert first == again
    assert (first.num_right, first.num_answers) == (2, 4)
    assert set(first.change) == set(ARMS)
    assert 0 <= first.selected <= 1


def test_the_report_by_hand() -> None:
    found = [
        Displacement("a", 1, 4, 2.0, 0.5, {"GRPO": -0.1, "NTHR": 0.1, "right answers alone": 0.3}),
        Displacement("b", 2, 4, -1.0, 0.0, {"GRPO": 0.3, "NTHR": 0.3, "right answers alone": 0.5}),
    ]
    told = "\n".join(report(found))
    assert "GRPO: right answers gain 0.1000" in told
    assert "displaced on 50.0% of the questions" in told
    assert "spares 25.0% of the wrong tokens, some on 1 questions" in told
    assert "NTHR gains 0.2000" in told
    assert "the 1 questions with the highest GWHES include 100.0% of the 1 with the lowest gain (chance: 50.0%)" in told


def test_nothing_to_compare_is_an_error() -> None:
    config = load_config(None, ["rollout.max_new_tokens=1", "data.arithmetic.size=4", "reward.workers=1"])
    with pytest.raises(DataError, match="right and wrong answers"):
        measure(config, num_problems=2, display=Silent())
