"""Corrections: what may be injected, what it falls back to, and why rows are left alone."""

from typing import Any

import pytest
from support import PROBLEM
from training.test_collect import edge, make, prompts, text

from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Problem, Strategy, Verdict
from edge_grpo.methods._edge import Guidance
from edge_grpo.methods.grpo_matched import GrpoMatched
from edge_grpo.training.collect import Collected

ANSWER = {"reflect": 0, "answer": 1, "reference": 0, "max_new_tokens": 110}
REFERENCE = {"reflect": 0, "answer": 0, "reference": 1, "max_new_tokens": 110}
WAIT = "\nWait! Something is wrong here. After verification, the correct answer is \\boxed{}"


def skips(collected: Collected) -> dict[str, float]:
    """The counts of rows that were not corrected as planned."""
    figures = means(collected.metrics)
    return {name: figures[name] for name in figures if "skipped" in name or "fallback" in name}


@pytest.mark.parametrize("solution", ["it is 2", "\\boxed{3}"])
def test_a_solution_that_does_not_grade_right_gives_way_to_the_answer(solution: str) -> None:
    problem = Problem("p", "?", ("2",), solution)
    for method in (edge(**REFERENCE), GrpoMatched(correction=Guidance(guard=False, **REFERENCE))):
        collected = make(method, ["\\boxed{3}"], group_size=2).collect(prompts(problem=problem), step=0, num_groups=1)
        for row_ in collected.groups[0].rows:
            assert row_.strategy is Strategy.ANSWER
            assert text(row_).endswith("the correct answer is \\boxed{2}.")
            assert row_.grade.correct
        assert skips(collected) == {"correction/fallback": 2.0, "correction/skipped": 0.0}


def test_a_reference_that_is_never_right_is_not_injected() -> None:
    odd = Problem("p", "?", ("2}",), "\\boxed{3}")  # its box cannot be read
    for correction in (REFERENCE, ANSWER):
        made = make(edge(**correction), ["no"], judge=lambda *_: False)
        collected = made.collect(prompts(problem=odd), step=0, num_groups=1)
        assert all(r.strategy is Strategy.NONE and r.first is None for r in collected.groups[0].rows)
        assert skips(collected) == {"correction/skipped": 4.0, "correction/skipped_reference": 4.0}


def test_a_verdict_of_a_failed_grader_leaves_the_row_as_sampled() -> None:
    def judge(problem: Problem, shown: str) -> Grade | bool:
        return Grade(Verdict.ERROR, 0.0) if "Wait" in shown else False

    made = make(edge(**ANSWER), ["no"], judge=judge)
    rows = made.collect(prompts(), step=0, num_groups=1).groups[0].rows
    assert [r.grade.verdict for r in rows] == [Verdict.WRONG] * 4


def test_a_worked_solution_is_never_put_into_a_box() -> None:
    prose = Problem("p", "?", ("Ann had 3 pens. She got 4 more pens. She has 7.",), "\\boxed{3}")
    for correction in (REFERENCE, ANSWER):
        made = make(edge(**correction), ["no"], judge=lambda _, shown: "Ann had" in shown)
        collected = made.collect(prompts(problem=prose), step=0, num_groups=1)
        assert skips(collected) == {"correction/skipped": 4.0, "correction/skipped_reference": 4.0}


@pytest.mark.parametrize("amount", ["all", "balanced"])
def test_long_prompts_are_counted(amount: Any) -> None:
    method = edge(amount=amount, max_prompt_tokens=3)
    collected = make(method, ["no"]).collect(prompts(), step=0, num_groups=2)
    count = 8.0 if amount == "all" else 4.0
    assert skips(collected) == {"correction/skipped": count, "correction/skipped_prompt": count}
    guarded = make(edge(max_prompt_tokens=3, guard=True), ["no"]).collect(prompts(), step=0, num_groups=2)
    assert skips(guarded)["correction/skipped"] == 6.0


@pytest.mark.parametrize(
    ("correction", "context"),
    [
        ({"reflect": 1, "answer": 0, "reference": 0, "max_new_tokens": 60}, len("???" + "no") + 60),
        (ANSWER, len("???" + "no" + WAIT + "2.") + 1),
        (REFERENCE, len("???" + PROBLEM.solution) + 1),
    ],
)
def test_a_correction_beyond_the_models_context_is_skipped(correction: dict[str, Any], context: int) -> None:
    fits = make(edge(**correction), ["no"], context=context).collect(prompts(), step=0, num_groups=1)
    assert skips(fits) == {"correction/skipped": 0.0}
    longest = max(len(r.rollout.prompt_ids + r.rollout.completion_ids) for r in fits.groups[0].rows)
    assert longest <= context
    skipped = make(edge(**correction), ["no"], context=context - 1).collect(prompts(), step=0, num_groups=1)
    assert skips(skipped) == {"correction/skipped": 4.0, "correction/skipped_context": 4.0}


def test_tokens_that_the_model_does_not_have_and_texts_without_tokens_are_skipped() -> None:
    for correction, vocabulary, reason in (
        (REFERENCE, 5, "vocabulary"),
        ({**ANSWER, "answer_phrase": ""}, None, "reference"),
    ):
        made = make(edge(**correction), ["no"])
        made.sampler.vocabulary = vocabulary
        collected = made.collect(prompts(), step=0, num_groups=1)
        assert skips(collected) == {"correction/skipped": 4.0, f"correction/skipped_{reason}": 4.0}
