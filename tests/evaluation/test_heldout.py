"""Held-out figures: unscorable answers are left out, pass@k without bias, and no corrections."""

import itertools

import pytest
from support import PROBLEM, tiny_policy, tiny_sampler

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Prompt, Verdict
from edge_grpo.config.tree import load_config
from edge_grpo.evaluation.answers import Answer, heldout_draws
from edge_grpo.evaluation.heldout import evaluate, figures
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.rollout.hf import DecodeEngine


def run(*words: str, num_problems: int = 4) -> list[Answer]:
    verdicts = itertools.cycle([Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.ERROR])
    engine = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
    sampler = tiny_sampler(engine, lambda *_: Grade(next(verdicts), 0.0))
    prompts = [Prompt(PROBLEM.__class__(f"p{i}", "?", ("2",)), (10 + i, 11)) for i in range(num_problems)]
    config = load_config(None, ["rollout.max_new_tokens=3", *words])
    return evaluate(sampler, prompts, heldout_draws(config))


def test_unscorable_answers_are_left_out_not_wrong() -> None:
    row = figures(run())
    assert row["eval/problems"] == 3
    assert row["eval/accuracy"] == pytest.approx(2 / 3)
    assert row["eval/verdict_error"] == 1
    assert row["eval/accuracy_low"] < 2 / 3 < row["eval/accuracy_high"]
    assert row["eval/length"] == 3


def test_several_samples_give_pass_at_k() -> None:
    answers = run("eval.samples=4", "eval.temperature=1")
    row = figures(answers)
    assert len(answers) == 16
    assert row["eval/pass@2"] == pytest.approx(pass_at_k(3, 2, 2))
    assert "eval/pass@4" not in row, "a problem has three scorable answers"
    assert row["eval/accuracy"] == pytest.approx(2 / 3)
    assert row["eval/accuracy_low"] < 2 / 3 < row["eval/accuracy_high"]


def test_at_temperature_0_samples_are_drawn_at_the_rollouts_and_accuracy_stays_greedy() -> None:
    answers = run("eval.samples=2")
    assert [answer.decoding for answer in answers] == ["greedy"] * 4 + ["sampled"] * 8
    assert figures(answers)["eval/problems"] == 3


def test_greedy_evaluation_repeats() -> None:
    assert run() == run()


def test_no_problem_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no problem"):
        run(num_problems=0)


def test_nothing_scorable_is_nan() -> None:
    row = figures([answer for answer in run() if not answer.scorable])
    assert row["eval/accuracy"] != row["eval/accuracy"]
    assert row["eval/problems"] == 0
