"""Seconds by phase, measured with a clock that tests replace."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up the seconds spent in named phases; no second counts twice.

    A phase inside another one belongs to the outer one: grading a correction is part of ``correct``, sampling for an
    evaluation is part of ``eval``.

    Args:
        clock: seconds that never go back.
        span: a context that marks a phase by its name, in a profiler's trace for example; inner phases are marked too.

    Example:
        >>> watch = Stopwatch(clock=iter([0.0, 2.0, 2.0, 5.0]).__next__)
        >>> with watch.phase("sample"):
        ...     pass
        >>> with watch.phase("sample"):
        ...     pass
        >>> watch.take("sample", "grade"), watch.take("sample")
        ({'sample': 5.0, 'grade': 0.0}, {'sample': 0.0})
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        span: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.clock, self._span = clock, span
        self._seconds: dict[str, float] = {}
        self._running = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block as that of ``name``, unless another phase is running."""
        with self._span(name):
            if self._running:
                yield
                return
            self._running, began = True, self.clock()
            try:
                yield
            finally:
                self._running = False
                self._seconds[name] = self._seconds.get(name, 0.0) + self.clock() - began

    def take(self, *names: str) -> dict[str, float]:
        """The seconds of these phases since they were last taken; 0 for a phase that did not run."""
        return {name: self._seconds.pop(name, 0.0) for name in names}
