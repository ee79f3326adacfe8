"""The preflight: reference answers and worked solutions, graded as completions before anything is trained or scored."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Problem, Verdict
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rewards.references import float32_noise, is_plain, is_worked

__all__ = ["check_references"]

FUNCTION_SAMPLE = 16  # references of each sort that a custom reward function is called on: it may cost money
WORKER_SAMPLE = 1000  # comparisons that text cannot decide, of each sort
WORKER_S = 10.0  # seconds after which no further ones are started
CHUNK = 16
SHOWN = 60  # characters of an example

REMEDY = (
    "Name the column of the answer alone (data.fields.answer), or set data.answer_pattern to a regular expression for "
    "the answer in it"
)
DECIMALS = "Write the column as text or float64"
UNRELIABLE = "grading against them is unreliable, and corrections never inject them"
_REFUSED = "corrections do not inject what it does not accept"

Encode = Callable[[str], Sequence[int]]


class _Checked(NamedTuple):
    """A reference of a problem, the completion that shows it, and its grade (None = not checked)."""

    problem: Problem
    text: str
    completion: str
    grade: Grade | None = None

    @property
    def verdict(self) -> Verdict | None:
        return self.grade.verdict if self.grade else None


def check_references(
    rewards: Rewards,
    problems: Sequence[Problem],
    *,
    name: str,
    solutions: bool = True,
    encode: Encode | None = None,
) -> list[str]:
    r"""Grade every reference as a completion would be, and describe those that the reward does not accept.

    Answers are graded in a box (``\boxed{ANSWER}``), worked solutions as they are. The built-in reward looks at all of
    them, but compares at most 1,000 of each sort in workers, and starts none after 10 s; a custom reward function is
    called on 16 answers and 16 solutions. Where only a sample was checked, a line says so.

    Args:
        rewards: the reward in use.
        problems: with their references.
        name: what the problems are called, for the lines.
        solutions: whether worked solutions are checked too.
        encode: gives the tokens of a completion, which functions of ``function_style=trl`` may ask for.

    Returns:
        lines to show; none if all references are accepted.

    Raises:
        DataError: the built-in reward can grade against no reference answer.
    """
    answers = [_Checked(problem, text, f"\\boxed{{{text}}}") for problem in problems for text in problem.answers]
    worked = [_Checked(each, each.solution, each.solution) for each in problems if solutions and each.solution]
    if rewards.is_custom:
        form = "it saw \\boxed{ANSWER}"
        if solutions:
            form += f", and {_REFUSED}; method.correction.answer_phrase sets another form"
        return [
            *_sampled(rewards, answers, name, "answers", form, encode),
            *_sampled(rewards, worked, name, "worked solutions", _REFUSED, encode),
        ]
    return [*_checked_answers(rewards, answers, name), *_checked_solutions(rewards, worked, name)]


def _checked_answers(rewards: Rewards, answers: Sequence[_Checked], name: str) -> list[str]:
    prose = [each for each in answers if is_worked(each.text)]
    noisy = [each for each in answers if float32_noise(each.text)]
    graded = _graded(rewards, [each for each in answers if is_plain(each.text)])
    refused = [each for each in graded if each.grade and not each.grade.correct]
    if answers and len(prose) + len(noisy) + len(refused) == len(answers):
        first = (prose + refused + noisy)[0]
        raise DataError(
            f"{name}: none of {len(answers):,} reference answers is usable; the first, of problem "
            f"{first.problem.id!r}, is {_shown(first.text)} ({_reason(first)}). "
            f"{DECIMALS if first in noisy else REMEDY}"
        )
    of = f"of {len(answers):,} answers"
    lines = [
        _line(name, prose, f"{of} are worked solutions or sentences", f"{UNRELIABLE}. {REMEDY}"),
        _line(name, noisy, f"{of} look like float32 rounding", f"{UNRELIABLE}. {DECIMALS}", _decimal),
        _line(name, refused, f"{of} are not accepted by the reward", f"{UNRELIABLE}. {REMEDY}", _why),
        _limits(name, graded, "answers"),
    ]
    return list(filter(None, lines))


def _checked_solutions(rewards: Rewards, worked: Sequence[_Checked], name: str) -> list[str]:
    graded = _graded(rewards, worked)
    checked = [each for each in graded if each.grade]
    unread = [each for each in checked if each.verdict is Verdict.UNPARSED]
    wrong = [each for each in checked if each.verdict not in (Verdict.UNPARSED, Verdict.CORRECT)]
    of = f"of {len(checked):,} worked solutions"
    instead = "methods that correct use the answer instead"
    lines = [
        _line(
            name,
            unread,
            f"{of} have no readable answer",
            f"{instead}. End them in \\boxed{{ANSWER}} or '#### ANSWER', or set data.fields.solution",
            lambda each: f"it ends {each.text.rstrip()[-SHOWN:]!r}",
        ),
        _line(name, wrong, f"{of} do not grade right", f"{instead}. Check data.fields.solution and .answer", _boxes),
        _limits(name, graded, "worked solutions"),
    ]
    return list(filter(None, lines))


def _sampled(
    rewards: Rewards, references: Sequence[_Checked], name: str, noun: str, advice: str, encode: Encode | None
) -> list[str]:
    """The same for a custom reward function, on a sample; never an error, because it may want another form."""
    graded = [each for each in _graded(rewards, references, encode) if each.grade]
    if not graded:
        return []
    refused = [each for each in graded if each.grade and not each.grade.correct]
    tried = f"{name}: reward.function was tried on {len(graded)} of {len(references):,} {noun}"
    if not refused:
        return [f"{tried} and accepts them"]
    if all(each.grade and not each.grade.scorable for each in graded):
        return [f"{tried} and failed on every one; the first: {_example(graded[0], _why)}"]
    return [f"{tried} and does not accept {len(refused)}, such as {_example(refused[0], _why)}: {advice}"]


def _graded(rewards: Rewards, references: Sequence[_Checked], encode: Encode | None = None) -> list[_Checked]:
    """The references with their grades, in order; those beyond the limits have none."""
    by_text = [rewards.decides_by_text(each.problem, each.completion) for each in references]
    cheap = [place for place, cheaply in enumerate(by_text) if cheaply]
    dear = [place for place, cheaply in enumerate(by_text) if not cheaply]
    most = FUNCTION_SAMPLE if rewards.is_custom else WORKER_SAMPLE
    dear = [dear[i * len(dear) // most] for i in range(most)] if len(dear) > most else dear
    graded = list(references)
    began = time.monotonic()
    for chunk in (cheap, *(dear[start : start + CHUNK] for start in range(0, len(dear), CHUNK))):
        if chunk is not cheap and time.monotonic() - began > WORKER_S:
            break
        some = [references[place] for place in chunk]
        problems, texts = [each.problem for each in some], [each.completion for each in some]
        token_ids = [encode(text) for text in texts] if encode else []
        grades = rewards.grade(problems, texts, [True] * len(some), token_ids, strict=False)
        for place, grade in zip(chunk, grades, strict=True):
            graded[place] = references[place]._replace(grade=grade)
    return graded


def _line(
    name: str,
    found: Sequence[_Checked],
    what: str,
    then: str,
    detail: Callable[[_Checked], str] | None = None,
) -> str:
    return f"{name}: {len(found):,} {what}, such as {_example(found[0], detail)}: {then}" if found else ""


def _example(each: _Checked, detail: Callable[[_Checked], str] | None) -> str:
    more = f" ({detail(each)})" if detail else ""
    return f"{_shown(each.text)} of problem {each.problem.id!r}{more}"


def _limits(name: str, graded: Iterable[_Checked], noun: str) -> str:
    listed = list(graded)
    missing = sum(each.grade is None for each in listed)
    return f"{name}: {len(listed) - missing:,} of {len(listed):,} {noun} were checked: a sample" if missing else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def _decimal(each: _Checked) -> str:
    return f"perhaps {float32_noise(each.text)}"


def _why(each: _Checked) -> str:
    note = each.grade.note if each.grade else ""
    answer = f"the answer is {_shown(each.problem.answers[0])}" if each.problem.answers else ""
    return f"{each.verdict}: {note or answer}" if note or answer else f"{each.verdict}"


def _boxes(each: _Checked) -> str:
    return f"its box holds {_shown(boxed_answer(each.text) or '')}; {_why(each)}"


def _reason(each: _Checked) -> str:
    if is_worked(each.text):
        return "a worked solution or a sentence, not an answer"
    return f"float32 rounding, {_decimal(each)}" if float32_noise(each.text) else _why(each)
