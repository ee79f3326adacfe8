"""Surprising steps are explained, ordinary ones are not: rows of metrics and settings in, lines out."""

from typing import Any

import pytest
from support import group

from edge_grpo.base.records import Grade, Group, Row, Verdict
from edge_grpo.config.tree import load_config
from edge_grpo.training.notices import first_failure, notices

ORDINARY: dict[str, float | None] = {
    "accuracy": 0.4,
    "length/unfinished": 0.02,
    "verdict/error": 0.0,
    "verdict/timeout": 0.0,
    "verdict/unparsed": 0.1,
    "collapse/before_all_wrong": 0.2,
    "collapse/after": 0.1,
    "collapse/after_all_wrong": 0.1,
    "collapse/after_all_right": 0.0,
    "correction/rows": 0.3,
    "correction/skipped": 0.0,
    "advantage/max_abs": 1.5,
    "rows/trained": 1.0,
    "empty_steps": 0.0,
    "skipped_updates": 0.0,
    "sampler/gap_beyond": 0.005,
    "loss": -0.2,
    "grad_norm": 1.25,
    "eval/finished": 1.0,
}


def explained(row: dict[str, Any], *words: str, failure: str = "") -> dict[str, str]:
    config = load_config(None, list(words))
    return notices(ORDINARY | row, config, config.method, failure=failure)


def test_an_ordinary_step_needs_no_explanation() -> None:
    assert explained({}) == {}
    config = load_config(None, [])
    assert notices({}, config, config.method) == {}, "undefined is not 0"


SKIPPED = {"correction/rows": 0.0, "correction/skipped": 12.0}
COLLAPSED = {"collapse/after": 1.0, "advantage/max_abs": 0.0, "grad_norm": 0.0}


@pytest.mark.parametrize(
    ("row", "words", "kind", "wanted"),
    [
        ({"length/unfinished": 0.97}, [], "cut", ["97% of the completions", "rollout.max_new_tokens=96 tokens"]),
        ({"eval/finished": 0.0}, [], "cut in evaluation", ["100% of the held-out", "rollout.max_new_tokens=96 tokens"]),
        ({"eval/finished": 0.2}, ["eval.max_new_tokens=7"], "cut in evaluation", ["80% of", "eval.max_new_tokens=7"]),
        ({"verdict/error": 0.25}, [], "failing", ["25.0% failed and are dropped", "the first: boom (my.py:3)"]),
        ({"verdict/timeout": 0.5}, [], "failing", ["50.0% took too long and earned 0"]),
        (
            {"sampler/gap": 0.034, "sampler/gap_beyond": 0.021},
            ["method=grpo"],
            "gap",
            [
                "by 0.034 nats per token",
                "more than 0.2 on 2.1% of the tokens; method.sampler_correction=token_truncate",
            ],
        ),
        (
            {"sampler/gap": 0.034, "sampler/gap_beyond": 0.021},
            ["method=rpo"],
            "gap",
            ["more than 0.2 on 2.1% of the tokens; compare its dtype with the policy's"],
        ),
        ({"verdict/unparsed": 0.9}, [], "unreadable", ["90% of", "\\boxed{}", "data.system_prompt"]),
        (
            {"empty_steps": 1.0, "dynamic/prompts": 48.0, "rows/trained": None, "loss": None, "grad_norm": None},
            ["method=dapo", "method.top_up.max_rounds=2"],
            "empty",
            ["no useful one among 48 prompts", "method.top_up.max_rounds (now 2)"],
        ),
        ({"empty_steps": 1.0}, ["method=unlikeliness"], "empty", ["the method dropped them all"]),
        ({"empty_updates": 1.0}, [], "empty", ["no row was left in an update"]),
        (
            {"rows/trained": 0.0, "length/unfinished": 1.0},
            ["method=grpo", "method.mask_unfinished=true"],
            "empty",
            ["method.mask_unfinished"],
        ),
        (
            COLLAPSED | {"collapse/after_all_wrong": 1.0},
            ["method=grpo"],
            "collapsed",
            ["no gradient: ", "all answers are wrong", "method=edge_grpo", "rollout.group_size"],
        ),
        (
            COLLAPSED | {"collapse/after_all_wrong": 1.0},
            ["method=grpo", "reward.function=mine:score"],
            "collapsed",
            ["If mine:score should have told them apart, check what it returns"],
        ),
        (COLLAPSED | {"collapse/after_all_right": 1.0}, ["method=grpo"], "collapsed", ["all answers are right"]),
        (
            COLLAPSED | {"collapse/after_all_right": 0.25, "collapse/after_all_wrong": 0.75, "grad_norm": 0.5},
            ["method=grpo"],
            "collapsed",
            ["only the other terms", "75% of them all wrong, 25% all right", "method.top_up.max_rounds=3"],
        ),
        (
            {**SKIPPED, "correction/skipped_budget": 9.0, "correction/skipped_prompt": 3.0},
            [],
            "uncorrected",
            ["12 corrections were skipped", "9 of them", "method.correction.max_new_tokens=256 tokens"],
        ),
        ({**SKIPPED, "correction/skipped_prompt": 12.0}, [], "uncorrected", ["max_prompt_tokens=256 tokens or more"]),
        ({**SKIPPED, "correction/skipped_context": 12.0}, [], "uncorrected", ["pass the model's context"]),
        ({**SKIPPED, "correction/skipped_reference": 12.0}, [], "uncorrected", ["the reference does not grade right"]),
        ({"skipped_updates": 1.0}, [], "skipped", ["100% of the updates", "train.learning_rate", "5 in a row"]),
        ({"loss": 3e-9}, ["method=grpo"], "zero loss", ["0 by construction", "grad_norm 1.25"]),
    ],
)
def test_a_surprise_is_explained(row: dict[str, Any], words: list[str], kind: str, wanted: list[str]) -> None:
    found = explained(row, *words, failure="boom (my.py:3)")
    assert list(found) == [kind] or (kind == "empty" and "cut" in found)
    for text in wanted:
        assert text in found[kind]
    assert "\n" not in found[kind]


def test_every_reason_to_skip_a_correction_is_explained() -> None:
    for reason in ("prompt", "budget", "context", "reference", "empty", "vocabulary"):
        (line,) = explained(SKIPPED | {f"correction/skipped_{reason}": 12.0}).values()
        assert "12 corrections were skipped, 12 of them because" in line


def test_where_a_failing_reward_left_no_row_nothing_is_said_about_equal_rewards() -> None:
    found = explained({"verdict/error": 0.5, "rows/trained": 0.0, **COLLAPSED, "collapse/after_all_wrong": 1.0})
    assert list(found) == ["failing", "empty"]
    assert "a failing reward" in found["empty"]


def test_causes_come_before_their_effects() -> None:
    cut = {"length/unfinished": 1.0, "verdict/unparsed": 1.0, **COLLAPSED, "collapse/after_all_wrong": 1.0}
    assert list(explained(cut, "method=grpo")) == ["cut", "collapsed"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"loss": 0.0, "grad_norm": 0.0}, ["method=grpo"]),  # nothing trains: another notice says so
        ({"loss": 0.0}, ["method=grpo", "train.passes=2"]),
        ({"collapse/after": 1.0}, ["method=raft"]),  # equal rewards, and yet it has an advantage
        ({"correction/rows": 0.0}, []),
        (SKIPPED | {"correction/rows": 0.1}, []),
        (SKIPPED, ["method.correction.amount=none"]),
        (SKIPPED, ["method=grpo"]),
    ],
)
def test_what_is_as_it_should_be_stays_unsaid(row: dict[str, Any], words: list[str]) -> None:
    assert explained(row, *words) == {}


def test_the_first_failure_is_the_first_remark_on_one() -> None:
    fine = group(1, 2)
    late = Grade(Verdict.TIMEOUT, 0.0, note="killed after 5 s")
    failed = Grade(Verdict.ERROR, 0.0, note="KeyError: 'x' (my.py:3)")
    rows = tuple(Row(fine.rows[0].rollout, grade) for grade in (late, failed))
    assert first_failure([fine]) == ""
    assert first_failure([fine, Group(fine.problem, rows)]) == "killed after 5 s"
