"""Rewards for completions: format and accuracy, or a custom function; graded in killable processes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from pydantic import Field

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.metrics import Metrics, share
from edge_grpo.base.records import Grade, Problem, Verdict
from edge_grpo.base.settings import settings
from edge_grpo.rewards import custom
from edge_grpo.rewards.answers.comparer import Comparer, How
from edge_grpo.rewards.answers.equality import decide_any_by_text, gold_text, same_as_any
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.formats import (
    PLACES,
    as_tags,
    outside_thoughts,
    tagged_answer,
    thinks_then_answers,
    thinks_then_boxes,
    tighten,
)
from edge_grpo.rewards.styles import Batch
from edge_grpo.rewards.workers.pool import Ending, GraderPool, Outcome

__all__ = ["RewardSettings", "Rewards", "verdict_counts"]

BUILT_IN = ("format", "accuracy")
FEW = 8  # fewer rows than this may all fail without ending a run, once some row has been scored
_NO_ROOM = "failed to map segment"  # glibc's words for a library that does not fit into the address space


@settings
class RewardSettings:
    r"""How completions are rewarded; a ``function`` replaces the built-in reward, leaving the two weights unused.

    Attributes:
        format: what earns the format reward: ``box``, a readable ``\boxed{}`` that is not empty; ``think``, thoughts in
            ``<think></think>`` followed by such a box, and then a box in thoughts, finished or not, is not the
            answer; ``answer``, such thoughts followed by ``<answer></answer>`` and nothing else, and then what is
            between these tags is the answer (if there is a box, its content; without tags, a box). Source of the last
            two: Share-GRPO's release, which reads the answer from thoughts too. Of gpt-oss's channels, only the final
            one holds an answer, with any format.
        format_weight: reward for the format. Source: EDGE-GRPO's training script, 1.
        accuracy_weight: reward for the right answer. Source: the same, 1.
        timeout_s: deadline for grading one completion against all its reference answers, in seconds.
        memory_mb: address space of each grading process, in MiB.
        workers: number of grading processes.
        function: a custom reward, ``path/to/file.py:name`` or ``package.module:name``; see `Rewards`. The module may
            be in the current folder or, prefixed with ``folder/``, in another one. A file may import its neighbours.
        function_style: how the function is called: ``own``, as in `Rewards`; ``trl``, with TRL's keyword arguments
            (``prompts``, ``completions`` and the columns of the data); ``verl``, with ``data_source``,
            ``solution_str``, ``ground_truth`` and ``extra_info`` of one row.
        function_parts: names of the parts in the mappings that the function returns; empty = only their sum is kept,
            as the one part "reward".
        function_timeout_s: deadline for one call of the function, which rewards a whole batch, in seconds.
    """

    format: Literal["box", "think", "answer"] = "box"
    format_weight: float = 1.0
    accuracy_weight: float = 1.0
    timeout_s: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=2048, ge=512)
    workers: int = Field(default=2, ge=1)
    function: str = ""
    function_style: Literal["own", "trl", "verl"] = "own"
    function_parts: tuple[str, ...] = ()
    function_timeout_s: float = Field(default=60.0, gt=0)


_VERDICTS = {
    Ending.DONE: Verdict.WRONG,  # if not found equal
    Ending.RAISED: Verdict.ERROR,
    Ending.LATE: Verdict.TIMEOUT,
    Ending.CRASHED: Verdict.TIMEOUT,
    Ending.KILLED: Verdict.ERROR,  # repeatedly, from outside: not the answer's fault
}


class _Read(NamedTuple):
    """What was read from a completion: the content of its last box, whether it has the format, and how long it took."""

    answer: str | None
    formatted: bool
    seconds: float


class Rewards:
    r"""Grades completions; a context manager, because it owns worker processes.

    The built-in reward is ``format_weight * format + accuracy_weight * accuracy``, both parts 0 or 1. This process
    finds the box and compares answers that are literally equal or plain numbers (`decide_by_text`: linear, cannot
    hang). Every other row is one call in a worker, whose result is remembered for the same answer and references.

    An answer that is late, runs out of memory or crashes its worker gets verdict *timeout* and accuracy 0: that is the
    answer's fault. A worker killed from outside is not: the row is graded again in a fresh one. An exception in the
    grader gives verdict *error*: the row is unscorable, never wrong. A grade's ``seconds`` is the time spent on the
    row, in this process and in a worker, excluding waits; rows graded in one call share its time equally.

    A custom reward is a function ::

        def reward(completions: list[str], problems: list[Problem]) -> list[float | Mapping[str, float] | None]

    called once per batch in a worker, never in this process. It returns one entry per row: a number; a mapping of named
    parts (their sum is the reward) and optionally ``correct``; or None for a row that cannot be scored. The entries may
    be a list, tuple, iterator, array or tensor, or a mapping of parts to such columns; the function may be ``async``.
    If ``function_parts`` names parts, every row must be a mapping of exactly these (a single part may be a number).
    Without ``correct``, the row's verdict, but not its reward, comes from the built-in check of the last box; if the
    problem has no reference answer, a row is correct when its reward is positive. A third parameter named ``finished``
    receives whether each completion ended by itself, within its budget. If a batch fails (exception, deadline,
    crash), its rows are retried one by one, so that only the offending rows are *error* (exception, invalid result)
    or *timeout* (late, crashed); retries stop after another ``function_timeout_s``, and rows not reached are
    *error*. If no row of a call could be scored, `grade` raises, except for fewer than 8 rows once others have been
    scored.

    Args:
        config: the settings.
        same: decides whether an answer equals any of its references; runs in a worker.

    Raises:
        ConfigError: on entry, if the custom function cannot be loaded.

    Source:
        EDGE-GRPO's reward (format + accuracy on the last box), with the box actually checked.

    Example:
        >>> problem = Problem(id="a", prompt="1+1?", answers=("2",))
        >>> with Rewards(RewardSettings()) as rewards:
        ...     [(grade.verdict.value, grade.reward) for grade in rewards.grade([problem] * 3,
        ...         [r"\boxed{2}", r"\boxed{3}", "2"], [True, True, True])]
        [('correct', 2.0), ('wrong', 1.0), ('unparsed', 0.0)]
    """

    def __init__(self, config: RewardSettings, *, same: Callable[..., object] = same_as_any) -> None:
        self.config = config
        self.pool = GraderPool(workers=config.workers, memory_mb=config.memory_mb)
        self._comparer = Comparer(self.pool, config.timeout_s, same=same)
        self._function = custom.locate(config.function) if config.function else ""
        self._has_scored = False
        names = config.function_parts
        if "correct" in names or len(set(names)) < len(names):
            raise ConfigError(f"reward.function_parts: got {list(names)}, want distinct names, none of them 'correct'")

    def __enter__(self) -> "Rewards":
        if self._function:
            self._check_function()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers."""
        self.pool.close()

    @property
    def part_names(self) -> tuple[str, ...]:
        """The keys of every grade's parts, in a fixed order."""
        return (self.config.function_parts or ("reward",)) if self._function else BUILT_IN

    @property
    def part_weights(self) -> tuple[float, ...]:
        """The weight of each part in the reward."""
        if self._function:
            return (1.0,) * len(self.part_names)
        return (self.config.format_weight, self.config.accuracy_weight)

    @property
    def is_custom(self) -> bool:
        """Whether a custom function rewards the completions."""
        return bool(self._function)

    @property
    def decided(self) -> Mapping[How, int]:
        """Number of answers the built-in check has compared so far, by how they were decided."""
        return self._comparer.counts

    def grade(
        self,
        problems: Sequence[Problem],
        completions: Sequence[str],
        finished: Sequence[bool],
        token_ids: Sequence[Sequence[int]] = (),
        *,
        strict: bool = True,
    ) -> list[Grade]:
        """Grade completions, each against the problem at the same position.

        Args:
            problems: one per completion.
            completions: texts of the answers, with what the prompt opened for them, such as ``<think>``.
            finished: whether a completion ended with a stop token or string. The built-in reward treats both alike.
            token_ids: the tokens of each completion, for functions of ``function_style=trl``; empty = unknown.
            strict: raise if no row could be scored; otherwise each has a failed verdict and a note.

        Returns:
            One grade per completion, in order.

        Raises:
            DataError: a problem has no reference answer, or no row could be scored (see above).
            EngineError: worker processes cannot be started.
        """
        return self._graded(Batch([*completions], [*problems], [*finished], [*token_ids]), strict=strict)

    def _graded(self, batch: Batch, *, strict: bool) -> list[Grade]:
        count, ids = len(batch.completions), len(batch.token_ids)
        if not len(batch.problems) == count == len(batch.finished) or ids not in (0, count):
            raise DataError(
                f"reward: got {len(batch.problems)} problems, {count} completions, {len(batch.finished)} finished "
                f"flags and {ids} lists of token ids; want the same number of each"
            )
        if not count:
            return []
        if self._function:
            return self._grade_custom(batch, strict=strict)
        return self._grade_math(batch.problems, batch.completions, strict=strict)

    def _check_scored(self, grades: Sequence[Grade], *, by_function: bool) -> None:
        """Raise if every row failed: a reward that always fails must not be mistaken for bad luck.

        A few rows, such as a step's repairs, may all fail if the reward has worked before.
        """
        failures = (Verdict.ERROR, Verdict.TIMEOUT) if by_function else (Verdict.ERROR,)
        if any(grade.verdict not in failures for grade in grades):
            self._has_scored = True
        elif not self._has_scored or len(grades) >= FEW:
            failed = f"none of {len(grades)} completions could be scored; the first: {grades[0].note}"
            if by_function:
                raise DataError(
                    f"reward.function: {self.config.function!r}: {failed}. Fix the function; if it times out or "
                    "crashes, raise reward.function_timeout_s and reward.timeout_s, or reward.memory_mb"
                )
            raise DataError(
                f"reward: {failed}. The built-in grader is broken: reinstall its packages "
                "(pip install --force-reinstall math-verify sympy), or set reward.function"
            )

    def _grade_math(self, problems: Sequence[Problem], completions: Sequence[str], *, strict: bool) -> list[Grade]:
        for problem in problems:
            if not problem.answers:
                raise DataError(f"problem {problem.id!r} has no reference answer; add one, or set reward.function")
        read = [self._read(completion) for completion in completions]
        rows = [
            (one.answer, tuple(map(gold_text, problem.answers)))
            for one, problem in zip(read, problems, strict=True)
            if one.answer is not None
        ]
        compared = iter(self._comparer.compare(rows))
        grades = [self._math_grade(one, None if one.answer is None else next(compared).outcome) for one in read]
        if strict:
            self._check_scored(grades, by_function=False)
        return grades

    def decides_by_text(self, problem: Problem, completion: str) -> bool:
        """Whether grading a completion needs neither a worker nor the custom function."""
        if self._function:
            return False
        answer = self._read(completion).answer
        return answer is None or decide_any_by_text(answer, [gold_text(gold) for gold in problem.answers]) is not None

    def formatted(self, completion: str) -> bool:
        """Whether a completion earns the format reward."""
        return self._read(completion).formatted

    def answer(self, completion: str) -> str | None:
        """A completion's answer: the content of its box, or what is between its tags; None if there is none."""
        return self._read(completion).answer

    def _read(self, completion: str) -> "_Read":
        began = time.perf_counter()
        form, tagged = self.config.format, as_tags(completion)
        said = outside_thoughts(tagged) if form != "box" or tagged != completion else completion
        content = tagged_answer(tighten(said)) if form == "answer" else ""
        answer = boxed_answer(content or said) or content or None
        has_form = thinks_then_answers if form == "answer" else thinks_then_boxes
        formatted = answer is not None and (form == "box" or has_form(tighten(tagged)))
        return _Read(answer, formatted, time.perf_counter() - began)

    def _math_grade(self, read: "_Read", outcome: Outcome | None) -> Grade:
        parts = {"format": float(read.formatted), "accuracy": 0.0}
        form = self.config.format_weight * parts["format"]
        if outcome is None:
            note = f"no {PLACES[self.config.format]} could be read"
            return Grade(Verdict.UNPARSED, form, parts, note, read.seconds)
        seconds = read.seconds + outcome.seconds
        if outcome.ending is Ending.DONE and outcome.value:
            return Grade(
                Verdict.CORRECT, form + self.config.accuracy_weight, parts | {"accuracy": 1.0}, seconds=seconds
            )
        return Grade(_VERDICTS[outcome.ending], form, parts, outcome.note, seconds)

    def _check_function(self) -> None:
        (outcome,) = self.pool.run(
            custom.check, [(self._function, self.config.function_style)], self.config.function_timeout_s
        )
        problem = outcome.value or outcome.note
        if problem:
            self.close()
            if outcome.ending not in (Ending.DONE, Ending.RAISED) or _NO_ROOM in problem:
                problem += f". If it loads large libraries, raise reward.memory_mb (now {self.config.memory_mb})"
            raise ConfigError(f"reward.function: {self.config.function!r} cannot be used: {problem}")

    def _grade_custom(self, batch: Batch, *, strict: bool) -> list[Grade]:
        rows = self._entries(batch)
        grades = [self._custom_grade(row) for row in rows]
        if strict:
            self._check_scored(grades, by_function=True)
        problems, completions = batch.problems, batch.completions
        undecided = [
            i for i, row in enumerate(rows) if grades[i].scorable and problems[i].answers and not _has_verdict(row)
        ]
        if undecided:
            checked = self._grade_math(
                [problems[i] for i in undecided], [completions[i] for i in undecided], strict=strict
            )
            for i, judged in zip(undecided, checked, strict=True):
                seconds = grades[i].seconds + judged.seconds
                grades[i] = replace(grades[i], verdict=judged.verdict, note=judged.note, seconds=seconds)
        return grades

    def _entries(self, batch: Batch) -> list[Outcome]:
        """One outcome per row: its entry in the function's result, or why there is none."""
        call = (self._function, batch, self.config.function_style)
        (whole,) = self.pool.run(custom.call, [call], self.config.function_timeout_s)
        if whole.ending is Ending.DONE:
            return _spread(whole, len(batch.completions))
        return [whole] if len(batch.completions) == 1 else self._isolate(batch, whole)

    def _isolate(self, batch: Batch, failed: Outcome) -> list[Outcome]:
        """Call the function row by row after a failed batch."""
        count, style = len(batch.completions), self.config.function_style
        timeout_s = min(self.config.timeout_s, self.config.function_timeout_s)
        affordable_s = self.config.function_timeout_s
        outcomes: list[Outcome] = []
        while len(outcomes) < count and affordable_s > 0:
            rows = range(len(outcomes), min(count, len(outcomes) + 2 * self.config.workers))
            calls = [(self._function, batch.row(i), style) for i in rows]
            for outcome in self.pool.run(custom.call, calls, timeout_s):
                outcomes += _spread(outcome, 1) if outcome.ending is Ending.DONE else [outcome]
                affordable_s -= timeout_s / self.config.workers if outcome.ending is Ending.LATE else 0.0
        note = f"not reached after the batch failed ({failed.ending.value}: {failed.note})"
        return outcomes + [Outcome(Ending.RAISED, note=note)] * (count - len(outcomes))

    def _custom_grade(self, row: Outcome) -> Grade:
        entry = row.value
        if row.ending is not Ending.DONE:
            return self._unscorable(_VERDICTS[row.ending], row.note, row.seconds)
        if entry is None:
            return self._unscorable(Verdict.ERROR, "the function returned None", row.seconds)
        values = entry if isinstance(entry, dict) else {self.part_names[0]: entry}
        parts: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, str):
                note = f"the function returned {value} for {name!r}"
                return self._unscorable(Verdict.ERROR, note, row.seconds)
            if name != "correct":
                parts[name] = value
        wanted = self.config.function_parts or tuple(parts)
        if not parts or set(parts) != set(wanted):
            got = f"parts {sorted(parts)}" if isinstance(entry, dict) else "a number"
            hint = f"{sorted(wanted)} (reward.function_parts)" if wanted else "a number for each of its parts"
            return self._unscorable(Verdict.ERROR, f"the function returned {got}, want {hint}", row.seconds)
        reward = math.fsum(parts.values())
        kept = {name: parts[name] for name in wanted} if self.config.function_parts else {self.part_names[0]: reward}
        verdict = Verdict.CORRECT if values.get("correct", reward > 0) else Verdict.WRONG
        return Grade(verdict, reward, kept, seconds=row.seconds)

    def _unscorable(self, verdict: Verdict, note: str, seconds: float) -> Grade:
        return Grade(verdict, 0.0, dict.fromkeys(self.part_names, 0.0), note, seconds)


def _spread(batch: Outcome, count: int) -> list[Outcome]:
    """What a finished call returned for each of its rows."""
    seconds = batch.seconds / count
    if isinstance(batch.value, str):  # what is wrong with the function's result
        return [Outcome(Ending.RAISED, note=batch.value, seconds=seconds)] * count
    return [replace(batch, value=entry, seconds=seconds) for entry in batch.value]


def _has_verdict(row: Outcome) -> bool:
    """Whether a row already has a verdict: its own ``correct`` flag, or a failure."""
    return row.ending is not Ending.DONE or (isinstance(row.value, dict) and "correct" in row.value)


def verdict_counts(grades: Sequence[Grade]) -> Metrics:
    """Share of the graded rows with each verdict.

    Example:
        >>> verdict_counts([Grade(Verdict.CORRECT, 2.0), Grade(Verdict.WRONG, 1.0)])["verdict/correct"]
        (1.0, 2.0)
    """
    return {f"verdict/{verdict.value}": share(grade.verdict is verdict for grade in grades) for verdict in Verdict}
