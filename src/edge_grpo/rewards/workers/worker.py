"""The parent's view of one worker: its start, its calls, its end and its exit code."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait

from edge_grpo.rewards.workers.calls import Ending, Outcome, read, timed
from edge_grpo.rewards.workers.template import SHARED, Setup, Template

__all__ = ["StartError", "Worker"]

START_UP_S = 120.0  # until a worker is ready, the template's imports included, on a busy machine
GRACE_S = 0.5  # after the deadline, until the parent kills a worker that has outlived its own timer
REPORT_S = 10.0  # after a kill, until the exit code counts as unknown
BUFFERED = 32_768  # bytes that a connection takes at once, even if nobody reads


class StartError(Exception):
    """A worker did not start."""


class Worker:
    """A process that runs one call at a time; for one thread at a time, except `kill`.

    Args:
        memory_mb: its address space, in MiB.
        template: the process to fork it from.

    Raises:
        StartError: the process died before it was ready, or was not ready after two minutes.

    Source:
        Own design: each worker has connections of its own, so a killed process holds no shared lock, and all clocks are
        monotonic, so changing the system clock affects no deadline.
    """

    def __init__(self, memory_mb: int, template: Template = SHARED) -> None:
        self._lock = threading.Lock()
        self._exit_code: int | None = None
        setup: Setup = (memory_mb, sys.path, sys.argv)
        try:
            self._calls, theirs = multiprocessing.Pipe()
            self._reports, reports = multiprocessing.Pipe(duplex=False)
            with theirs, reports:
                template.fork(theirs, reports)
            self._calls.send(setup)
            if not self._calls.poll(START_UP_S):
                raise StartError(f"the process was not ready after {START_UP_S:g} s")
            self.pid = int(self._calls.recv_bytes())
        except (EOFError, ConnectionError):
            raise StartError("the process ended before it was ready") from None
        except OSError as error:  # no memory, processes or file descriptors left
            raise StartError(f"{type(error).__name__}: {error}") from error

    def call(self, request: bytes, timeout_s: float) -> Outcome:
        """Run a call. Unless it is done or raised, the process has ended, or `close` must end it.

        Args:
            request: from `packed`.
            timeout_s: the deadline, in seconds from now. The worker's own timer ends the process; half a second later
                the parent kills it, in case the call has changed the timer.
        """
        began = time.monotonic()
        with contextlib.suppress(EOFError, OSError), self._watched(timeout_s + GRACE_S, len(request)):
            self._calls.send_bytes(timed(request, timeout_s))
            if self._calls.poll(timeout_s + GRACE_S):  # a reply, or the end of the process
                return read(self._calls.recv_bytes())
        seconds = time.monotonic() - began
        self.kill()
        if seconds >= timeout_s:
            return Outcome(Ending.LATE, note=f"killed after {seconds:.2g} s", seconds=seconds)
        code = self.exit_code
        ending = Ending.KILLED if code in (-signal.SIGKILL, None) else Ending.CRASHED  # unknown: never the call's fault
        note = f"the process died (exit code {'unknown' if code is None else code})"
        return Outcome(ending, note=note, seconds=seconds)

    @contextlib.contextmanager
    def _watched(self, limit_s: float, size: int) -> Iterator[None]:
        """Kill the process at a time limit if the request is so large that sending it may block."""
        if size <= BUFFERED:
            yield
            return
        timer = threading.Timer(limit_s, self.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def lives(self) -> bool:
        """Whether the idle process is still there."""
        return not self._calls.poll(0)  # an idle worker is silent; a dead one's end of the connection is closed

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs, or if its template died first."""
        with contextlib.suppress(EOFError, OSError):
            if self._exit_code is None and self._reports.poll(0):
                self._exit_code = int(self._reports.recv_bytes())
        return self._exit_code

    def kill(self) -> None:
        """End the process, whatever it is doing; from any thread, and without effect if it has ended."""
        with self._lock:
            if self._calls.closed or self.exit_code is not None:
                return
            orphaned = self._reports.poll(0)  # closed without a report: the template was killed
            if self.lives or not orphaned:  # a dead orphan is reaped elsewhere, and its process id may be another's
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                wait([self._calls if orphaned else self._reports], REPORT_S)

    def close(self) -> None:
        """End the process and close the connections."""
        self.kill()
        orphaned = self.exit_code is None
        self.forget()
        if orphaned:
            with contextlib.suppress(ChildProcessError):  # process 1 of a container inherits orphans, and reaps them
                os.waitpid(self.pid, 0)

    def forget(self) -> None:
        """Close the connections alone; in a forked child, which leaves its parent's process running."""
        self._calls.close()
        self._reports.close()
