"""Grading of answers."""

import atexit
from collections.abc import Sequence
from functools import cache
from typing import Any

from golden.cases import Case

from edge_grpo.rewards.extract import boxed_answer
from edge_grpo.rewards.math import grade_answer
from edge_grpo.rewards.pool import Ending, GraderPool


def rewards_of(names: list[str], text: str, golds: Sequence[str | float]) -> list[float]:
    """The named rewards of one completion."""
    formatted, correct = grade_answer(text, golds)
    known = {"box_format_reward": float(formatted), "box_accuracy_reward": float(correct)}
    return [known[name] for name in names]


def text_and_golds(case: Case) -> tuple[str, list[str | float]]:
    """The completion and its reference answers; long ones are put together from parts (golds under ``documented``)."""
    text, parts = case.value("text", None), case.value("text_parts", None)
    gold = case.value("gold")
    gold_parts = case.value("gold_parts", case.documented.get("gold_parts"))
    if gold is None:
        gold = joined(gold_parts)
    return joined(parts) if text is None else text, gold if isinstance(gold, list) else [gold]


def grader(case: Case) -> dict[str, Any]:
    formatted, correct = grade_answer(*text_and_golds(case))
    return {"formatted": formatted, "reward": float(correct)}


def grader_robustness(case: Case) -> dict[str, Any]:
    """In a worker with a deadline, as in training: what is late is wrong."""
    text, golds = text_and_golds(case)
    (outcome,) = pool().run(grade_answer, [(text, golds)], timeout_s=10.0)
    if outcome.ending is not Ending.DONE:
        return {"formatted": boxed_answer(text) is not None, "reward": 0.0}
    return {"formatted": outcome.value.formatted, "reward": float(outcome.value.correct)}


@cache
def pool() -> GraderPool:
    started = GraderPool(workers=1)
    atexit.register(started.close)
    return started


def joined(parts: list[list[Any]]) -> str:
    return "".join(map(expand, parts))


def expand(part: list[Any]) -> str:
    """A part of a long text: ["lit", text, times] or ["range", start, stop, prefix, separator, suffix(, step)]."""
    if part[0] == "lit":
        return str(part[1]) * int(part[2])
    assert part[0] == "range", f"unknown part {part[0]}"
    _, start, stop, prefix, separator, suffix, *step = part
    return str(prefix) + str(separator).join(map(str, range(start, stop, *step))) + str(suffix)


HANDLERS = {"rewards.grader": grader, "rewards.grader_robustness": grader_robustness}
