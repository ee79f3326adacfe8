"""Compares answers with their references: by text where that is conclusive, from memory, or else in a worker."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edge_grpo.rewards.answers.equality import decide_any_by_text, same_as_any
from edge_grpo.rewards.workers.pool import Ending, GraderPool, Outcome

__all__ = ["Comparer", "Comparison", "How"]

MAX_REMEMBERED = 600  # characters of an answer and its references; longer ones rarely recur
Key = tuple[str, tuple[str, ...]]  # an answer and its references


class How(StrEnum):
    """How a comparison was decided."""

    TEXT = "text"  # by the texts alone
    MEMORY = "memory"  # the same comparison was made before
    WORKER = "worker"  # in a worker process


@dataclass(frozen=True)
class Comparison:
    """One comparison: its outcome, whose value says whether the answer is right if it is done, and how it was decided.

    The outcome's seconds are the worker's; for text or memory, those of the decision or look-up.
    """

    outcome: Outcome
    how: How


class Comparer:
    """Compares answers with their references, each distinct comparison once; thread-safe.

    Args:
        pool: runs the comparisons that text cannot decide.
        timeout_s: deadline for comparing one answer with all its references, in seconds.
        remembered: how many results to keep; the least recently used is dropped first. Comparisons that were late or
            failed are not kept, but retried.
        same: decides whether an answer equals any of its references; runs in a worker.

    Example:
        >>> with GraderPool(workers=1) as pool:
        ...     found = Comparer(pool, timeout_s=5.0).compare([("7", ("7",)), *[("x+1", ("y", "1+x"))] * 2])
        >>> [(one.outcome.value, one.how.value) for one in found]
        [(True, 'text'), (True, 'worker'), (True, 'memory')]
    """

    def __init__(
        self, pool: GraderPool, timeout_s: float, remembered: int = 20_000, same: Callable[..., object] = same_as_any
    ) -> None:
        self.counts: Counter[How] = Counter()
        self._pool = pool
        self._timeout_s = timeout_s
        self._same = same
        self._remembered = remembered
        self._memory: OrderedDict[Key, bool] = OrderedDict()
        self._lock = threading.Lock()

    def compare(self, rows: Sequence[Key]) -> list[Comparison]:
        """Compare each answer with its references; one match is enough.

        Returns:
            One comparison per row, in order.

        Raises:
            EngineError: worker processes cannot be started.
        """
        immediate = [self._immediate(row) for row in rows]
        waiting = dict.fromkeys(row for row, found in zip(rows, immediate, strict=True) if found is None)
        outcomes = dict(zip(waiting, self._pool.run(self._same, list(waiting), self._timeout_s), strict=True))
        result = []
        for row, found in zip(rows, immediate, strict=True):
            began = time.perf_counter()
            if found is not None:
                result.append(found)
            elif row in waiting:
                del waiting[row]
                result.append(Comparison(outcomes[row], How.WORKER))
            else:  # a repeated row
                outcome = replace(outcomes[row], seconds=time.perf_counter() - began)
                result.append(Comparison(outcome, How.MEMORY))
        self._keep(outcomes, Counter(one.how for one in result))
        return result

    def _immediate(self, row: Key) -> Comparison | None:
        began = time.perf_counter()
        how, decided = How.TEXT, decide_any_by_text(*row)
        if decided is None:
            how, decided = How.MEMORY, self._recalled(row)
        if decided is None:
            return None
        return Comparison(Outcome(Ending.DONE, decided, seconds=time.perf_counter() - began), how)

    def _recalled(self, row: Key) -> bool | None:
        with self._lock:
            if row in self._memory:
                self._memory.move_to_end(row)
            return self._memory.get(row)

    def _keep(self, outcomes: Mapping[Key, Outcome], counts: Counter[How]) -> None:
        with self._lock:
            self.counts += counts
            for (answer, golds), outcome in outcomes.items():
                if outcome.ending is Ending.DONE and len(answer) + sum(map(len, golds)) <= MAX_REMEMBERED:
                    self._memory[answer, golds] = bool(outcome.value)
            while len(self._memory) > self._remembered:
                self._memory.popitem(last=False)
