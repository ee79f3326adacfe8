"""Rewards of completions: format and accuracy, or a user's own function; graded in killable processes."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from edge_grpo.errors import ConfigError, DataError
from edge_grpo.metrics import Metrics, share
from edge_grpo.records import Grade, Problem, Verdict
from edge_grpo.rewards.extract import boxed_answer
from edge_grpo.rewards.math import gold_text
from edge_grpo.rewards.pool import Ending, GraderPool, Outcome
from edge_grpo.settings import settings

__all__ = ["RewardSettings", "Rewards", "verdict_counts"]

BUILT_IN = ("format", "accuracy")


@settings
class RewardSettings:
    r"""How completions are rewarded; a ``function`` rewards alone, and the two weights are then unused.

    Attributes:
        format_weight: reward for a readable ``\boxed{}``. Source: EDGE-GRPO's training script, 1.
        accuracy_weight: reward for the right answer. Source: the same, 1.
        timeout_s: deadline of grading one completion, in seconds.
        memory_mb: address space of each grading process, in MiB.
        workers: grading processes.
        function: a user's reward, ``package.module:name`` or ``path/to/file.py:name``; see `Rewards`.
        function_parts: names of the parts that the function returns.
        function_timeout_s: deadline of one call of the function, which rewards a whole batch.
    """

    format_weight: float = 1.0
    accuracy_weight: float = 1.0
    timeout_s: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=2048, ge=512)
    workers: int = Field(default=2, ge=1)
    function: str = ""
    function_parts: tuple[str, ...] = ("reward",)
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

    called once a batch in a worker, and never in this process. It returns one entry a row: a number; a mapping with
    exactly the names in ``function_parts`` (their sum is the reward) and optionally ``correct``; or None for a row that
    cannot be scored. Without ``correct``, a row is correct when its reward is positive. A third parameter called
    ``finished`` receives whether each completion ended by itself. If a batch fails (exception, deadline, crash), its
    rows are called one by one, so that only the rows to blame are *error* (exception, wrong result) or *timeout* (late,
    crashed); isolating stops after another ``function_timeout_s``, and rows not reached are *error*.

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
        self._function = _absolute(config.function) if config.function else ""
        if self._function and (not config.function_parts or "correct" in config.function_parts):
            raise ConfigError("rewards.function_parts: want at least one name, and none called 'correct'")

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
        return self.config.function_parts if self._function else BUILT_IN

    @property
    def part_weights(self) -> tuple[float, ...]:
        """The weight of each part in the reward."""
        if self._function:
            return (1.0,) * len(self.config.function_parts)
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
            DataError: a problem has no reference answer.
            EngineError: worker processes cannot be started.
        """
        if not len(problems) == len(completions) == len(finished):
            raise DataError(
                f"rewards: {len(problems)} problems, {len(completions)} completions and {len(finished)} finished flags "
                "came; want as many of each"
            )
        if not completions:
            return []
        if self._function:
            return self._grade_own(list(problems), list(completions), list(finished))
        return self._grade_math(problems, completions)

    def _grade_math(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        pairs: dict[tuple[str, str], None] = {}
        rows: list[list[tuple[str, str]] | None] = []
        for problem, completion in zip(problems, completions, strict=True):
            if not problem.answers:
                raise DataError(f"problem {problem.id!r} has no reference answer; give one, or set rewards.function")
            answer = boxed_answer(completion)
            rows.append(None if answer is None else [(answer, gold_text(gold)) for gold in problem.answers])
            pairs.update(dict.fromkeys(rows[-1] or ()))
        outcomes = dict(zip(pairs, self.pool.same_answers(list(pairs), self.config.timeout_s), strict=True))
        return [self._math_grade(None if row is None else [outcomes[pair] for pair in row]) for row in rows]

    def _math_grade(self, outcomes: Sequence[Outcome] | None) -> Grade:
        if outcomes is None:
            return Grade(Verdict.UNPARSED, 0.0, {"format": 0.0, "accuracy": 0.0}, "no \\boxed{} could be read")
        if any(outcome.ending is Ending.DONE and outcome.value for outcome in outcomes):
            reward = self.config.format_weight + self.config.accuracy_weight
            return Grade(Verdict.CORRECT, reward, {"format": 1.0, "accuracy": 1.0})
        parts = {"format": 1.0, "accuracy": 0.0}
        for verdict, endings in ((Verdict.ERROR, (Ending.RAISED,)), (Verdict.TIMEOUT, (Ending.LATE, Ending.CRASHED))):
            for outcome in outcomes:
                if outcome.ending in endings:
                    return Grade(verdict, self.config.format_weight, parts, outcome.note)
        return Grade(Verdict.WRONG, self.config.format_weight, parts)

    def _check_function(self) -> None:
        (outcome,) = self.pool.run(_check, [(self._function,)], self.config.function_timeout_s)
        problem = outcome.value if outcome.ending is Ending.DONE else f"{outcome.ending.value}: {outcome.note}"
        if problem:
            self.close()
            raise ConfigError(f"rewards.function: {self.config.function!r} cannot be used: {problem}")

    def _grade_own(self, problems: list[Problem], completions: list[str], finished: list[bool]) -> list[Grade]:
        count = len(completions)
        deadline_s = self.config.function_timeout_s
        (batch,) = self.pool.run(_call, [(self._function, completions, problems, finished)], deadline_s)
        if batch.ending is Ending.DONE and isinstance(batch.value, list) and len(batch.value) == count:
            return [self._own_grade(entry) for entry in batch.value]
        if batch.ending is Ending.DONE:
            note = _wrong_length(batch.value, count)
            return [self._unscorable(Verdict.ERROR, note) for _ in range(count)]
        return self._isolate(problems, completions, finished, batch)

    def _isolate(
        self, problems: list[Problem], completions: list[str], finished: list[bool], batch: Outcome
    ) -> list[Grade]:
        """Call row by row after a failed batch."""
        count = len(completions)
        if count == 1:
            return [self._failed(batch)]
        timeout_s = min(self.config.timeout_s, self.config.function_timeout_s)
        affordable_s = self.config.function_timeout_s
        grades: list[Grade] = []
        while len(grades) < count and affordable_s > 0:
            rows = range(len(grades), min(count, len(grades) + 2 * self.config.workers))
            calls = [(self._function, [completions[i]], [problems[i]], [finished[i]]) for i in rows]
            for outcome in self.pool.run(_call, calls, timeout_s):
                if outcome.ending is not Ending.DONE:
                    grades.append(self._failed(outcome))
                elif isinstance(outcome.value, list) and len(outcome.value) == 1:
                    grades.append(self._own_grade(outcome.value[0]))
                else:
                    grades.append(self._unscorable(Verdict.ERROR, _wrong_length(outcome.value, 1)))
                affordable_s -= timeout_s / self.config.workers if outcome.ending is Ending.LATE else 0.0
        note = f"not reached after the batch failed ({batch.ending.value}: {batch.note})"
        return grades + [self._unscorable(Verdict.ERROR, note) for _ in range(count - len(grades))]

    def _failed(self, outcome: Outcome) -> Grade:
        verdict = Verdict.ERROR if outcome.ending is Ending.RAISED else Verdict.TIMEOUT
        return self._unscorable(verdict, outcome.note)

    def _unscorable(self, verdict: Verdict, note: str) -> Grade:
        return Grade(verdict, 0.0, dict.fromkeys(self.part_names, 0.0), note)

    def _own_grade(self, entry: object) -> Grade:
        names = self.config.function_parts
        if entry is None:
            return self._unscorable(Verdict.ERROR, "the function returned None")
        correct: object = None
        values: Mapping[str, object]
        if isinstance(entry, Mapping):
            correct = entry.get("correct")
            values = {name: value for name, value in entry.items() if name != "correct"}
        else:
            values = {names[0]: entry}
        if set(values) != set(names):
            return self._unscorable(
                Verdict.ERROR, f"the function returned parts {sorted(values)}, want {sorted(names)}"
            )
        parts: dict[str, float] = {}
        for name in names:
            number = _finite(values[name])
            if number is None:
                return self._unscorable(Verdict.ERROR, f"the function returned {values[name]!r:.80} for {name!r}")
            parts[name] = number
        reward = math.fsum(parts.values())
        right = reward > 0 if correct is None else bool(correct)
        return Grade(Verdict.CORRECT if right else Verdict.WRONG, reward, parts)


def verdict_counts(grades: Sequence[Grade]) -> Metrics:
    """How often each verdict was given, as shares of the graded rows.

    Example:
        >>> verdict_counts([Grade(Verdict.CORRECT, 2.0), Grade(Verdict.WRONG, 1.0)])["verdict/correct"]
        (1.0, 2.0)
    """
    return {f"verdict/{verdict.value}": share(grade.verdict is verdict for grade in grades) for verdict in Verdict}


def _finite(value: object) -> float | None:
    """A finite number as a float; numpy's scalars count, texts do not."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _wrong_length(value: object, wanted: int) -> str:
    got = f"{len(value)} entries" if isinstance(value, list) else f"a {type(value).__name__}"
    return f"the function returned {got}, want a list of {wanted}"


def _absolute(path: str) -> str:
    """Resolve a file in a dotted path against the current folder, and check what can be checked without importing."""
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ConfigError(f"rewards.function: came {path!r}, want 'package.module:name' or 'path/to/file.py:name'")
    if not place.endswith(".py"):
        return path
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"rewards.function: there is no file {place!r} (looked for {file})")
    return f"{file}:{name}"


@lru_cache(maxsize=8)
def _load(path: str) -> Callable[..., Any]:
    """Runs in the worker."""
    place, _, name = path.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"_reward_{Path(place).stem}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise TypeError(f"{place} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _check(path: str) -> str:
    """Runs in the worker: what is wrong with the function, or nothing."""
    try:
        signature = inspect.signature(_load(path))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a user's module may raise anything)
        return f"{type(error).__name__}: {error}"
    try:
        signature.bind([], [], **({"finished": []} if "finished" in signature.parameters else {}))
    except TypeError:
        return f"it takes {signature}, want (completions, problems), and 'finished' if you like"
    return ""


def _call(path: str, completions: list[str], problems: list[Problem], finished: list[bool]) -> object:
    """Runs in the worker."""
    function = _load(path)
    extra = {"finished": finished} if "finished" in inspect.signature(function).parameters else {}
    return function(completions, problems, **extra)
