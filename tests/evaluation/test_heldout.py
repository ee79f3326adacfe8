"""Evaluation: intervals, pass@k, and no corrections."""

import math

import pytest
from support import PROBLEM, tiny_policy

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Verdict
from edge_grpo.config.sections import EvalSettings
from edge_grpo.evaluation.heldout import Evaluation, evaluate
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.sampler import Prompted


def grade_every_second(problems, rollouts):
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.ERROR]
    return [Grade(verdicts[i % 4], 0.0) for i in range(len(rollouts))]


def run(**settings):
    engine = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
    problems = [Prompted(PROBLEM, (10 + i, 11)) for i in range(4)]
    return evaluate(engine, grade_every_second, problems, EvalSettings(**settings), budget=3)


def test_unscorable_answers_are_left_out_not_wrong():
    result = run()
    assert result.num_problems == 3
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.verdicts["error"] == 1
    assert result.metrics()["eval/accuracy_low"] < 2 / 3 < result.metrics()["eval/accuracy_high"]
    assert result.mean_length == 3


def test_several_samples_give_pass_at_k():
    result = run(samples=4, temperature=1.0)
    assert [len(own) for own in result.correct] == [3] * 4
    assert result.metrics()["eval/pass@2"] == pytest.approx(pass_at_k(3, 2, 2))
    low, high = result.interval
    assert low < 2 / 3 < high


def test_greedy_evaluation_repeats():
    assert run().answers == run().answers


def test_no_problem_at_all_is_an_error():
    engine = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
    with pytest.raises(DataError, match="no problem"):
        evaluate(engine, grade_every_second, [], EvalSettings(), budget=3)


def test_an_evaluation_of_nothing_scorable_is_nan():
    assert math.isnan(Evaluation((), {}, 0.0, 0.0, (), ()).accuracy)
