"""Rewards of completions: format and accuracy, or a user's own function; graded in killable processes."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge_grpo.errors import ConfigError, DataError
from edge_grpo.metrics import Metrics, share
from edge_grpo.records import Grade, Problem, Verdict
from edge_grpo.rewards.extract import boxed_answer
from edge_grpo.rewards.formats import thinks_then_boxes, tighten
from edge_grpo.rewards.math import gold_text
from edge_grpo.rewards.pool import Ending, GraderPool, Outcome
from edge_grpo.settings import settings

__all__ = ["RewardSettings", "Rewards", "verdict_counts"]

BUILT_IN = ("format", "accuracy")
MAX_REWARD = 1e30  # a larger number is refused: float32 must hold sums of them
FEW = 8  # rows that may all fail without ending a run, once some row has been scored

Entry = dict[str, float | str] | float | str | None  # of one row, from the worker; a text shows what is no number


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
        function: a user's reward, ``package.module:name`` or ``path/to/file.py:name``; see `Rewards`.
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
    ``correct``, a row is correct when its reward is positive. A third parameter called ``finished`` receives whether
    each completion ended by itself. If a batch fails (exception, deadline, crash), its rows are called one by one, so
    that only the rows to blame are *error* (exception, wrong result) or *timeout* (late, crashed); isolating stops
    after another ``function_timeout_s``, and rows not reached are *error*. If no row of a call could be scored, `grade`
    raises, save for fewer than 8 rows once others were scored.

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
            grades = self._grade_own(list(problems), list(completions), list(finished))
        else:
            grades = self._grade_math(problems, completions)
        self._check_scored(grades)
        return grades

    def _check_scored(self, grades: Sequence[Grade]) -> None:
        """Raise where every row failed: a reward that always fails must not pass for one that had bad luck.

        A few rows, such as the repairs of a step, may all fail if the reward has worked before.
        """
        failures = (Verdict.ERROR, Verdict.TIMEOUT) if self._function else (Verdict.ERROR,)
        if any(grade.verdict not in failures for grade in grades):
            self._has_scored = True
        elif not self._has_scored or len(grades) >= FEW:
            came = f"none of {len(grades)} completions could be scored; the first: {grades[0].note}"
            if self._function:
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
        return [
            self._math_grade(None if row is None else [outcomes[pair] for pair in row], self._formatted(completion))
            for row, completion in zip(rows, completions, strict=True)
        ]

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
        (outcome,) = self.pool.run(_check, [(self._function,)], self.config.function_timeout_s)
        problem = outcome.value if outcome.ending is Ending.DONE else f"{outcome.ending.value}: {outcome.note}"
        if problem:
            self.close()
            raise ConfigError(f"reward.function: {self.config.function!r} cannot be used: {problem}")

    def _grade_own(self, problems: list[Problem], completions: list[str], finished: list[bool]) -> list[Grade]:
        count = len(completions)
        deadline_s = self.config.function_timeout_s
        (batch,) = self.pool.run(_call, [(self._function, completions, problems, finished)], deadline_s)
        if batch.ending is Ending.DONE:
            return self._own_grades(batch.value, count)
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
                done = outcome.ending is Ending.DONE
                grades += self._own_grades(outcome.value, 1) if done else [self._failed(outcome)]
                affordable_s -= timeout_s / self.config.workers if outcome.ending is Ending.LATE else 0.0
        note = f"not reached after the batch failed ({batch.ending.value}: {batch.note})"
        return grades + [self._unscorable(Verdict.ERROR, note) for _ in range(count - len(grades))]

    def _failed(self, outcome: Outcome) -> Grade:
        verdict = Verdict.ERROR if outcome.ending is Ending.RAISED else Verdict.TIMEOUT
        return self._unscorable(verdict, outcome.note)

    def _unscorable(self, verdict: Verdict, note: str) -> Grade:
        return Grade(verdict, 0.0, dict.fromkeys(self.part_names, 0.0), note)

    def _own_grades(self, entries: list[Entry] | str, count: int) -> list[Grade]:
        if isinstance(entries, str):
            return [self._unscorable(Verdict.ERROR, entries) for _ in range(count)]
        return [self._own_grade(entry) for entry in entries]

    def _own_grade(self, entry: Entry) -> Grade:
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


def verdict_counts(grades: Sequence[Grade]) -> Metrics:
    """How often each verdict was given, as shares of the graded rows.

    Example:
        >>> verdict_counts([Grade(Verdict.CORRECT, 2.0), Grade(Verdict.WRONG, 1.0)])["verdict/correct"]
        (1.0, 2.0)
    """
    return {f"verdict/{verdict.value}": share(grade.verdict is verdict for grade in grades) for verdict in Verdict}


def _absolute(path: str) -> str:
    """Resolve a file in a dotted path against the current folder, and check what can be checked without importing."""
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ConfigError(f"reward.function: came {path!r}, want 'package.module:name' or 'path/to/file.py:name'")
    if not place.endswith(".py"):
        return path
    try:
        file = Path(place).expanduser().resolve()
        found = file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a folder that may not be read, odd characters
        raise ConfigError(f"reward.function: {place!r} cannot be looked for: {error}") from None
    if not found:
        raise ConfigError(f"reward.function: there is no file {place!r} (looked for {file})")
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


def _call(path: str, completions: list[str], problems: list[Problem], finished: list[bool]) -> list[Entry] | str:
    """Runs in the worker: the entries as plain numbers, since another process may not know their classes."""
    function = _load(path)
    extra = {"finished": finished} if "finished" in inspect.signature(function).parameters else {}
    entries = function(completions, problems, **extra)
    if isinstance(entries, list) and len(entries) == len(problems):
        return [_plain(entry) for entry in entries]
    came = f"{len(entries)} entries" if isinstance(entries, list) else f"a {type(entries).__name__}"
    return f"the function returned {came}, want a list of {len(problems)}"


def _plain(entry: object) -> Entry:
    if entry is None or not isinstance(entry, Mapping):
        return None if entry is None else _number(entry)
    return {str(name): _number(value) for name, value in entry.items() if not (name == "correct" and value is None)}


def _number(value: object) -> float | str:
    """The value as a float, numpy's scalars too; a text that shows it where it is no number, or none of use."""
    shown = f"{value!r:.80}"
    if isinstance(value, (str, bytes)):
        return shown
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  (a tensor of two elements, or whatever a class may raise)
        return shown
    return number if abs(number) <= MAX_REWARD else shown
