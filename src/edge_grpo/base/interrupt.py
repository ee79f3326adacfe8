"""SIGTERM and Ctrl-C: before a step's first update the step is dropped, afterwards it is finished first.

A command that a signal ends has the exit code 128 + its number: 130 for Ctrl-C, 143 for SIGTERM.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption", "StepDropped", "Terminated", "terminable"]


class Terminated(SystemExit):
    """A signal with which nothing better is done: everything that is open is closed on the way out of the command."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C raise :class:`Terminated`, unless something inside catches them first.

    Ctrl-C stays ignored where the process was started with it ignored. Outside the main thread nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Terminated(number)


class StepDropped(BaseException):
    """A signal came while nothing of the step had changed the weights. No ``except Exception`` may swallow it."""


class Interruption:
    """Catches the first SIGINT or SIGTERM while it is entered; a second one does what it did before.

    That is an orderly end inside :func:`terminable`; elsewhere KeyboardInterrupt for Ctrl-C (even where the process was
    started with it ignored), and the end of the process for SIGTERM. ``signal`` is the number that came, 0 for none.
    Outside the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._may_drop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """While inside, a signal raises :class:`StepDropped` at once; one that came before does so on entering.

        Raises:
            StepDropped: a signal came.
        """
        self._may_drop = True
        try:
            self._drop_if_asked()
            yield
            self._drop_if_asked()
        finally:
            self._may_drop = False

    def _drop_if_asked(self) -> None:
        if self.signal:
            raise StepDropped

    def _catch(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal:
            for caught, handler in self._before.items():
                signal.signal(caught, signal.default_int_handler if handler is signal.SIG_IGN else handler)
            signal.raise_signal(number)
            return
        self.signal = number
        if self._may_drop:
            raise StepDropped
