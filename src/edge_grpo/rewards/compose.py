"""Rewards of completions: format and accuracy, or a user's own function; graded in killable processes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from edge_grpo.errors import ConfigError, DataError
from edge_grpo.metrics import Metrics, share
from edge_grpo.records import Grade, Problem, Verdict
from edge_grpo.rewards import own
from edge_grpo.rewards.extract import boxed_answer
from edge_grpo.rewards.formats import thinks_then_boxes, tighten
from edge_grpo.rewards.math import gold_text
from edge_grpo.rewards.pool import Ending, GraderPool, Outcome
from edge_grpo.settings import settings

__all__ = ["RewardSettings", "Rewards", "verdict_counts"]

BUILT_IN = ("format", "accuracy")
FEW = 8  # rows that may all fail without ending a run, once some row has been scored


@settings
class RewardSettings:
    r"""How completions are rewarded; a ``function`` rewards alone, and the two weights are then unused.

    Attributes:
        format: what the format reward is for: ``box``, a readable ``\boxed{}``; ``think``, thoughts in
            ``<think></think>`` and then a ``\boxed{}``. Source of the latter: Share-GRPO's release.
        format_weight: reward for the format. Source: EDGE-GRPO's training script, 1.
        accuracy_weight: reward for the right answer. Source: the same, 1.
        timeout_s: deadline of grading one completion, in seconds.
        memory_mb: address space of each grading process, in MiB.
        workers: grading processes.
        function: a user's reward, ``path/to/file.py:name`` or ``package.module:name``; see `Rewards`. The module may
            lie in the current folder or, with ``folder/`` in front, in another one.
        function_parts: names of the parts that the function returns in mappings; empty = only their sum is kept, as
            the one part "reward".
        function_timeout_s: deadline of one call of the function, which rewards a whole batch.
    """

    format: Literal["box", "think"] = "box"
    format_weight: float = 1.0
    accuracy_weight: float = 1.0
    timeout_s: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=2048, ge=512)
    workers: int = Field(default=2, ge=1)
    function: str = ""
    function_parts: tuple[str, ...] = ()
    function_timeout_s: float = Field(default=60.0, gt=0)


class Rewards:
    r"""Grades completions; a context manager, because it owns worker processes.

    The built-in reward is ``format_weight * format + accuracy_weight * accuracy``, both parts 0 or 1. Exactly what
    runs where: the box is found, and answers that are literally equal or are both plain integers are compared, in this
    process (linear text comparison, which cannot hang); every other comparison is one call in a worker.

    An answer that is late, exhausts the memory or crashes its worker has verdict *timeout* and accuracy 0: that is the
    answer's doing. An exception in the grader is verdict *error*: the row is unscorable, never wrong.

    A user's reward is a function ::

        def reward(completions: list[str], problems: list[Problem]) -> list[float | Mapping[str, float] | None]

    called once a batch in a worker, and never in this process. It returns one entry a row: a number; a mapping of named
    parts (their sum is the reward) and optionally ``correct``; or None for a row that cannot be scored. Where
    ``function_parts`` names parts, every row must be a mapping of exactly these (a single one may be a number). Without
    ``correct``, the row's verdict, though not its reward, is that of the built-in check of the last box; where the
    problem has no reference answer, a row is correct when its reward is positive. A third parameter called ``finished``
    receives whether each completion ended by itself. If a batch fails (exception, deadline, crash), its rows are called
    one by one, so that only the rows to blame are *error* (exception, wrong result) or *timeout* (late, crashed);
    isolating stops after another ``function_timeout_s``, and rows not reached are *error*. If no row of a call could be
    scored, `grade` raises, save for fewer than 8 rows once others were scored.

    Args:
        config: the settings.

    Raises:
        ConfigError: on entering, if the user's function cannot be loaded.

    Source:
        EDGE-GRPO's reward (format + accuracy on the last box), with the box really tested.

    Example:
        >>> problem = Problem(id="a", prompt="1+1?", answers=("2",))
        >>> with Rewards(RewardSettings()) as rewards:
        ...     [(grade.verdict.value, grade.reward) for grade in rewards.grade([problem] * 3,
        ...         [r"\boxed{2}", r"\boxed{3}", "2"], [True, True, True])]
        [('correct', 2.0), ('wrong', 1.0), ('unparsed', 0.0)]
    """

    def __init__(self, config: RewardSettings) -> None:
        self.config = config
        self.pool = GraderPool(workers=config.workers, memory_mb=config.memory_mb)
        self._function = own.locate(config.function) if config.function else ""
        self._has_scored = False
        names = config.function_parts
        if "correct" in names or len(set(names)) < len(names):
            raise ConfigError(
                f"reward.function_parts: came {list(names)}, want different names, none of them 'correct'"
            )

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

    def grade(self, problems: Sequence[Problem], completions: Sequence[str], finished: Sequence[bool]) -> list[Grade]:
        """Grade completions, each against the problem in the same place.

        Args:
            problems: one a completion.
            completions: texts without the prompt and without special tokens.
            finished: whether a completion ended with a stop token. The built-in reward treats both alike.

        Returns:
            One grade a completion, in order.

        Raises:
            DataError: a problem has no reference answer, or no row could be scored (see above).
            EngineError: worker processes cannot be started.
        """
        if not len(problems) == len(completions) == len(finished):
            raise DataError(
                f"reward: {len(problems)} problems, {len(completions)} completions and {len(finished)} finished flags "
                "came; want as many of each"
            )
        if not completions:
            return []
        if self._function:
            return self._grade_own(list(problems), list(completions), list(finished))
        return self._grade_math(problems, completions)

    def _check_scored(self, grades: Sequence[Grade], *, by_function: bool) -> None:
        """Raise where every row failed: a reward that always fails must not pass for one that had bad luck.

        A few rows, such as the repairs of a step, may all fail if the reward has worked before.
        """
        failures = (Verdict.ERROR, Verdict.TIMEOUT) if by_function else (Verdict.ERROR,)
        if any(grade.verdict not in failures for grade in grades):
            self._has_scored = True
        elif not self._has_scored or len(grades) >= FEW:
            came = f"none of {len(grades)} completions could be scored; the first: {grades[0].note}"
            if by_function:
                raise DataError(
                    f"reward.function: {self.config.function!r}: {came}. Mend the function; if it is late or dies, "
                    "raise reward.function_timeout_s and reward.timeout_s, or reward.memory_mb"
                )
            raise DataError(
                f"reward: {came}. The built-in grader is broken: install its packages anew "
                "(pip install --force-reinstall math-verify sympy), or set reward.function"
            )

    def _grade_math(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        pairs: dict[tuple[str, str], None] = {}
        rows: list[list[tuple[str, str]] | None] = []
        for problem, completion in zip(problems, completions, strict=True):
            if not problem.answers:
                raise DataError(f"problem {problem.id!r} has no reference answer; give one, or set reward.function")
            answer = boxed_answer(completion)
            rows.append(None if answer is None else [(answer, gold_text(gold)) for gold in problem.answers])
            pairs.update(dict.fromkeys(rows[-1] or ()))
        outcomes = dict(zip(pairs, self.pool.same_answers(list(pairs), self.config.timeout_s), strict=True))
        grades = [
            self._math_grade(None if row is None else [outcomes[pair] for pair in row], self._formatted(completion))
            for row, completion in zip(rows, completions, strict=True)
        ]
        self._check_scored(grades, by_function=False)
        return grades

    def _formatted(self, completion: str) -> bool:
        if self.config.format == "think":
            return thinks_then_boxes(tighten(completion))
        return boxed_answer(completion) is not None

    def _math_grade(self, outcomes: Sequence[Outcome] | None, formatted: bool) -> Grade:
        parts = {"format": float(formatted), "accuracy": 0.0}
        form = self.config.format_weight * parts["format"]
        if outcomes is None:
            return Grade(Verdict.UNPARSED, form, parts, "no \\boxed{} could be read")
        if any(outcome.ending is Ending.DONE and outcome.value for outcome in outcomes):
            return Grade(Verdict.CORRECT, form + self.config.accuracy_weight, parts | {"accuracy": 1.0})
        for verdict, endings in ((Verdict.ERROR, (Ending.RAISED,)), (Verdict.TIMEOUT, (Ending.LATE, Ending.CRASHED))):
            for outcome in outcomes:
                if outcome.ending in endings:
                    return Grade(verdict, form, parts, outcome.note)
        return Grade(Verdict.WRONG, form, parts)

    def _check_function(self) -> None:
        (outcome,) = self.pool.run(own.check, [(self._function,)], self.config.function_timeout_s)
        problem = outcome.value if outcome.ending is Ending.DONE else f"{outcome.ending.value}: {outcome.note}"
        if problem:
            self.close()
            raise ConfigError(f"reward.function: {self.config.function!r} cannot be used: {problem}")

    def _grade_own(self, problems: list[Problem], completions: list[str], finished: list[bool]) -> list[Grade]:
        rows = self._entries(problems, completions, finished)
        grades = [row if isinstance(row, Grade) else self._own_grade(row) for row in rows]
        self._check_scored(grades, by_function=True)
        unsaid = [i for i, row in enumerate(rows) if grades[i].scorable and problems[i].answers and not _says(row)]
        if unsaid:
            checked = self._grade_math([problems[i] for i in unsaid], [completions[i] for i in unsaid])
            for i, judged in zip(unsaid, checked, strict=True):
                grades[i] = replace(grades[i], verdict=judged.verdict, note=judged.note)
        return grades

    def _entries(
        self, problems: list[Problem], completions: list[str], finished: list[bool]
    ) -> Sequence[own.Entry | Grade]:
        """What the function returned for each row, or the grade of a row that it could not score."""
        deadline_s = self.config.function_timeout_s
        (batch,) = self.pool.run(own.call, [(self._function, completions, problems, finished)], deadline_s)
        if batch.ending is Ending.DONE:
            return self._returned(batch.value, len(completions))
        return self._isolate(problems, completions, finished, batch)

    def _isolate(
        self, problems: list[Problem], completions: list[str], finished: list[bool], batch: Outcome
    ) -> Sequence[own.Entry | Grade]:
        """Call row by row after a failed batch."""
        count = len(completions)
        if count == 1:
            return [self._failed(batch)]
        timeout_s = min(self.config.timeout_s, self.config.function_timeout_s)
        affordable_s = self.config.function_timeout_s
        entries: list[own.Entry | Grade] = []
        while len(entries) < count and affordable_s > 0:
            rows = range(len(entries), min(count, len(entries) + 2 * self.config.workers))
            calls = [(self._function, [completions[i]], [problems[i]], [finished[i]]) for i in rows]
            for outcome in self.pool.run(own.call, calls, timeout_s):
                done = outcome.ending is Ending.DONE
                entries += self._returned(outcome.value, 1) if done else [self._failed(outcome)]
                affordable_s -= timeout_s / self.config.workers if outcome.ending is Ending.LATE else 0.0
        note = f"not reached after the batch failed ({batch.ending.value}: {batch.note})"
        return entries + [self._unscorable(Verdict.ERROR, note) for _ in range(count - len(entries))]

    def _failed(self, outcome: Outcome) -> Grade:
        verdict = Verdict.ERROR if outcome.ending is Ending.RAISED else Verdict.TIMEOUT
        return self._unscorable(verdict, outcome.note)

    def _unscorable(self, verdict: Verdict, note: str) -> Grade:
        return Grade(verdict, 0.0, dict.fromkeys(self.part_names, 0.0), note)

    def _returned(self, entries: list[own.Entry] | str, count: int) -> Sequence[own.Entry | Grade]:
        if isinstance(entries, str):
            return [self._unscorable(Verdict.ERROR, entries) for _ in range(count)]
        return entries

    def _own_grade(self, entry: own.Entry) -> Grade:
        if entry is None:
            return self._unscorable(Verdict.ERROR, "the function returned None")
        values = entry if isinstance(entry, dict) else {self.part_names[0]: entry}
        parts: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, str):
                return self._unscorable(Verdict.ERROR, f"the function returned {value} for {name!r}")
            if name != "correct":
                parts[name] = value
        wanted = self.config.function_parts or tuple(parts)
        if not parts or set(parts) != set(wanted):
            came = f"parts {sorted(parts)}" if isinstance(entry, dict) else "a number"
            hint = f"{sorted(wanted)} (reward.function_parts)" if wanted else "a number for each of its parts"
            return self._unscorable(Verdict.ERROR, f"the function returned {came}, want {hint}")
        reward = math.fsum(parts.values())
        kept = {name: parts[name] for name in wanted} if self.config.function_parts else {self.part_names[0]: reward}
        return Grade(Verdict.CORRECT if values.get("correct", reward > 0) else Verdict.WRONG, reward, kept)


def _says(row: own.Entry | Grade) -> bool:
    """Whether a row came with right or wrong."""
    return isinstance(row, Grade) or (isinstance(row, dict) and "correct" in row)


def verdict_counts(grades: Sequence[Grade]) -> Metrics:
    """How often each verdict was given, as shares of the graded rows.

    Example:
        >>> verdict_counts([Grade(Verdict.CORRECT, 2.0), Grade(Verdict.WRONG, 1.0)])["verdict/correct"]
        (1.0, 2.0)
    """
    return {f"verdict/{verdict.value}": share(grade.verdict is verdict for grade in grades) for verdict in Verdict}
