"""Grading of answers."""

import atexit
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from golden.cases import Case
from golden.deviations import ours

from edge_grpo.rewards.answers.equality import grade_answer
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.builtin import RewardSettings
from edge_grpo.rewards.workers.pool import Ending, GraderPool

DEFAULTS = RewardSettings()


def rewards_of(names: list[str], text: str, golds: Sequence[str | float]) -> list[float]:
    """The named rewards of one completion."""
    formatted, correct = grade_answer(text, golds)
    known = {"box_format_reward": float(formatted), "box_accuracy_reward": float(correct)}
    return [known[name] for name in names]


def text_and_golds(case: Case) -> tuple[str, list[str | float]]:
    """The completion and its reference answers; long ones are assembled from parts (golds under ``documented``)."""
    text, parts = case.value("text", None), case.value("text_parts", None)
    gold = case.value("gold")
    gold_parts = case.value("gold_parts", case.documented.get("gold_parts"))
    if gold is None:
        gold = joined(gold_parts)
    return joined(parts) if text is None else text, gold if isinstance(gold, list) else [gold]


def grader(case: Case) -> dict[str, Any]:
    text, golds = text_and_golds(case)
    formatted, correct = grade_answer(text, golds)
    if (deviating := ours(text, case.value("gold"))) is not None and (formatted, correct) == deviating:
        return dict(case.expected)  # deliberately not the release's verdict
    return {"formatted": formatted, "reward": float(correct)}


def grader_robustness(case: Case) -> dict[str, Any]:
    """In a worker with the deadline and memory of a training run, neither of which is exceeded: late means wrong."""
    text, golds = text_and_golds(case)
    (outcome,) = pool().run(grade_answer, [(text, golds)], DEFAULTS.timeout_s)
    assert outcome.seconds <= DEFAULTS.timeout_s + 1.0, f"took {outcome.seconds:.1f} s"
    assert outcome.ending in (Ending.DONE, Ending.LATE), outcome.note
    (status,) = pool().run(Path.read_text, [(Path("/proc/self/status"),)], DEFAULTS.timeout_s)
    peak_kib = int(re.search(r"^VmPeak:\s+(\d+) kB$", status.value, re.M)[1])
    assert peak_kib <= DEFAULTS.memory_mb * 1024, f"took {peak_kib} KiB"
    if outcome.ending is Ending.LATE:
        return {"formatted": boxed_answer(text) is not None, "reward": 0.0}
    formatted, correct = outcome.value
    return {"formatted": formatted, "reward": float(correct)}


@cache
def pool() -> GraderPool:
    """One worker, so that the second call of a case finds the process of the first."""
    started = GraderPool(workers=1, memory_mb=DEFAULTS.memory_mb)
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
