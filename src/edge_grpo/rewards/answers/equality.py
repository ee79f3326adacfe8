r"""Is the boxed answer of a completion right? By its text if that decides, else by what it says.

Stages: the first to find two answers equal wins, and any reference answer counts:

1. the texts are equal, or both are plain numbers (`decide_by_text`: no evaluation, cannot hang);
2. their spellings are equal (`canonical`);
3. they are read as a whole (`reading`) and agree (`agreement`);
4. math-verify finds them equal, one being a sum, product, integral or limit (`symbolic.verified`).

Model output is data, never code: none of it reaches ``eval``, and the sizes of powers and factorials are checked before
they are computed. Stages 3 and 4 may still take arbitrarily long; run them in a `GraderPool`.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge_grpo.rewards.answers.canonical import canonical, spelled
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.answers.rational import rational, same_rationals

__all__ = [
    "GradedAnswer",
    "decide_any_by_text",
    "decide_by_text",
    "gold_text",
    "grade_answer",
    "same_answer",
    "same_as_any",
]

MAX_LENGTH = 4000  # characters; a longer answer is right only if it equals the reference, ignoring whitespace
ANALYSIS = re.compile(r"\\(?:sum|prod|i*nt|lim)(?![a-zA-Z])")
NAME = re.compile(r"^[A-Za-z]=")
INTEGER = re.compile(r"\s*([+-]?)0*(\d{1,300})\s*", re.ASCII)


Stage = Callable[[str, str], bool]
"""Compares an answer with one reference."""


class GradedAnswer(NamedTuple):
    """The result of grading: ``formatted`` = an answer could be read; ``correct`` = it equals a reference answer."""

    formatted: bool
    correct: bool


def grade_answer(text: str, golds: Sequence[str | float]) -> GradedAnswer:
    r"""Grade one completion in this process, without a deadline.

    Args:
        text: the completion; its answer is the content of the last box.
        golds: equivalent reference answers; one match is enough. A number stands for its decimal form, without a
            decimal point if it is integral. A reference may come with ``$...$`` or its own box.

    Returns:
        Whether an answer was readable and whether it is right.

    Source:
        The verdicts follow the grader of EDGE-GRPO's release, with golden cases in ``tests/golden/vectors``, except
        for the deviations listed in ``docs/grading.md``.

    Example:
        >>> grade_answer(r"so \boxed{\frac{2}{4}}", ["0.5"])
        GradedAnswer(formatted=True, correct=True)
        >>> grade_answer("so 0.5", ["0.5"])
        GradedAnswer(formatted=False, correct=False)
    """
    answer = boxed_answer(text)
    if answer is None:
        return GradedAnswer(formatted=False, correct=False)
    return GradedAnswer(formatted=True, correct=same_as_any(answer, [gold_text(gold) for gold in golds]))


def gold_text(gold: str | float) -> str:
    r"""A reference answer as text, without its box if it has one.

    Example:
        >>> gold_text(142.0), gold_text(r"$\boxed{a=170}$"), gold_text("9.6\n")
        ('142', 'a=170', '9.6')
    """
    if not isinstance(gold, str):
        return str(int(gold)) if float(gold).is_integer() else str(gold)
    boxed = boxed_answer(gold)
    return (gold if boxed is None else boxed).strip()


def decide_by_text(answer: str, gold: str) -> bool | None:
    r"""Compare without evaluating anything: True or False where that is certain, None otherwise.

    Literally equal texts are equal; two plain ASCII integers are equal if their digits are; two plain numbers,
    including fractions, are equal if their values are, and different if these are not close (`rational`). An empty
    answer equals nothing; an over-long one, of more than `MAX_LENGTH` characters, equals only itself, ignoring
    whitespace. Takes linear time, so this stage alone may run outside a worker process.

    Example:
        >>> decide_by_text("+07", "7"), decide_by_text("8", "7"), decide_by_text(r"\frac{2}{4}", "0.5")
        (True, False, True)
        >>> decide_by_text("0.3333333", "1/3") is None, decide_by_text("x+1", "1+x") is None
        (True, True)
    """
    answer, gold = answer.strip(), gold.strip()
    if answer == gold or not answer:
        return bool(answer)
    left, right = INTEGER.fullmatch(answer), INTEGER.fullmatch(gold)
    if left and right:
        return left[2] == right[2] and (left[1] == "-" and left[2] != "0") == (right[1] == "-" and right[2] != "0")
    one, two = rational(answer), rational(gold)
    if one is not None and two is not None:
        return same_rationals(one, two)
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return "".join(answer.split()) == "".join(gold.split())
    return None


def decide_any_by_text(answer: str, golds: Sequence[str]) -> bool | None:
    """`decide_by_text` against several references: True if one is equal, False if all differ, None otherwise."""
    decided = [decide_by_text(answer, gold) for gold in golds]
    if True in decided:
        return True
    return None if None in decided else False


def same_answer(answer: str, gold: str) -> bool:
    """Whether the content of a box equals a reference answer, through all stages. May take arbitrarily long."""
    return same_as_any(answer, (gold,))


def same_as_any(answer: str, golds: Sequence[str], *, stages: Sequence[Stage] | None = None) -> bool:
    """Whether the content of a box equals one of several references: each stage runs over all of them before the next.

    So an expensive reference never masks a cheap match. May take arbitrarily long. ``stages`` replaces the comparisons.

    Raises:
        Exception: the first one that a stage raised, if no other comparison found a match.
    """
    failure: Exception | None = None
    open_golds = [gold for gold in golds if decide_by_text(answer, gold) is None]
    if len(open_golds) < len(golds) and decide_any_by_text(answer, golds):
        return True
    for stage in (_same_spelling, _same_reading, _verified) if stages is None else stages:
        for gold in open_golds:
            try:
                if stage(answer, gold):
                    return True
            except Exception as error:  # noqa: BLE001  (another reference may still match)
                failure = failure or error
    if failure is not None:
        raise failure
    return False


def _same_spelling(answer: str, gold: str) -> bool:
    one, two = canonical(answer), canonical(gold)
    if "=" in one and "=" not in two:
        one = NAME.sub("", one, count=1)
    elif "=" in two and "=" not in one:
        two = NAME.sub("", two, count=1)
    return bool(one) and one == two


def _same_reading(answer: str, gold: str) -> bool:
    from edge_grpo.rewards.answers.agreement import agree  # noqa: PLC0415  (needs mpmath, which only workers import)
    from edge_grpo.rewards.answers.reading import read  # noqa: PLC0415

    try:
        return agree(read(spelled(answer)), read(spelled(gold)))
    except RecursionError:  # hundreds of factors
        return False


def _verified(answer: str, gold: str) -> bool:
    if not (ANALYSIS.search(answer) or ANALYSIS.search(gold)):
        return False
    from edge_grpo.rewards.answers import symbolic  # noqa: PLC0415  (a second of imports, spared the training process)

    return symbolic.verified(answer, gold)
