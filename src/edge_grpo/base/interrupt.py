"""SIGTERM and Ctrl-C: before a step's first update they drop the step; after it, the step finishes first.

A command ended by a signal exits with code 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption", "StepDropped", "Terminated", "ignore_sigterm", "terminable"]


class Terminated(SystemExit):
    """Exit on a signal that nothing else handles; everything open is closed on exit."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """Inside the block, SIGTERM and Ctrl-C raise :class:`Terminated` unless something else handles them first.

    Ctrl-C stays ignored if the process was started with it ignored. Outside the main thread, nothing changes.
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


def ignore_sigterm() -> None:
    """From now on, SIGTERM is ignored: this process is about to end by itself, and first says why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StepDropped(BaseException):
    """A signal arrived before the step had changed any weights. No ``except Exception`` may swallow it."""


class Interruption:
    """Context manager that catches the first SIGINT or SIGTERM; a second one gets the previous handler.

    Inside :func:`terminable` that is an orderly exit; elsewhere, KeyboardInterrupt for Ctrl-C (even if the process was
    started with it ignored) and the end of the process for SIGTERM. ``signal`` is the number received, 0 for none.
    Outside the main thread, nothing is caught.

    Args:
        agree: with several processes, tells each whether any of them got a flag. They then drop a step together: a
            signal interrupts a process only inside :meth:`exposed`, where it works by itself.
    """

    def __init__(self, agree: Callable[[bool], bool] | None = None) -> None:
        self.signal = 0
        self._agree = agree
        self._droppable = self._may_drop = False
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
        """Inside the block, a signal raises :class:`StepDropped` at once; an earlier one raises it on entry.

        Raises:
            StepDropped: a signal was received.
        """
        self._droppable, self._may_drop = True, self._agree is None
        try:
            self._drop_if_signalled()
            yield
            self._drop_if_signalled()
        finally:
            self._droppable = self._may_drop = False

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """With several processes: inside the block, within :meth:`droppable`, a signal interrupts this one at once."""
        self._may_drop = self._droppable
        try:
            if self._may_drop and self.signal:
                raise StepDropped
            yield
        finally:
            self._may_drop = self._droppable and self._agree is None

    def _drop_if_signalled(self) -> None:
        flag = bool(self.signal)
        if self._agree(flag) if self._agree else flag:
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
