"""One worker process: how it starts, what it does with a call, how a call is ended, and what its parent learns of it.

A call is a pickle made by the parent; the reply is JSON, so that nothing that a worker says is unpickled.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import forkserver, popen_forkserver, spawn
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

__all__ = ["Ending", "Outcome", "StartError", "Worker", "packed"]

PRELOAD = ["edge_grpo.rewards.workers.warm"]
START_UP_S = 120.0  # allowed for the start of a worker on a busy machine
GRACE_S = 0.5  # after the deadline, until the parent kills a worker that has outlived its own timer
HEADER = struct.Struct("d")
PIPE_HOLDS = 32_768  # bytes that an empty pipe takes at once, whatever its other end does
READY = b"ready"
SERVER_GONE = 255  # the exit code that multiprocessing gives a process, alive or not, whose server was killed

_processes = threading.Lock()  # multiprocessing's list of children is not made for several threads


class Ending(StrEnum):
    """How a call in a worker ended."""

    DONE = "done"
    LATE = "late"  # killed at its deadline
    CRASHED = "crashed"  # out of memory, or the process died
    KILLED = "killed"  # by a person, or by the kernel for want of memory; in every attempt
    RAISED = "raised"  # the function raised an exception


@dataclass(frozen=True)
class Outcome:
    """The ending of one call; ``value`` is its result where it is done, ``note`` says in words what else happened.

    ``seconds``: what the call took in its worker, measured there; for a call that was killed, by the parent.
    """

    ending: Ending
    value: Any = None
    note: str = ""
    seconds: float = 0.0


class StartError(Exception):
    """A worker did not start."""


def packed(function: Callable[..., object], arguments: tuple[Any, ...]) -> bytes:
    """A call as `Worker.call` wants it; whatever pickle raises where it cannot be sent."""
    return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)


class Worker:
    """A process that carries out one call at a time; to be used by one thread at a time, save for `kill`.

    Args:
        memory_mb: its address space, in MiB.

    Raises:
        StartError: the process did not report within two minutes, or died before.

    Source:
        Own design on ``multiprocessing``: a pipe for each worker, so that no lock is shared which a killed process
        could keep, and all clocks monotonic, so that a clock that is set changes no deadline.
    """

    def __init__(self, memory_mb: int) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, memory_mb), name="edge-grpo grader")
        with _processes:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by server and workers
            try:
                _CONTEXT.set_forkserver_preload(PRELOAD)
                forkserver.ensure_running()
                self._process.start()
            except (OSError, EOFError) as error:  # the server was killed at this very moment, or there is no room
                raise StartError(f"{type(error).__name__}: {error}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                theirs.close()
        try:
            started = self._connection.poll(START_UP_S) and self._connection.recv_bytes() == READY
        except (EOFError, OSError):
            started = False
        if not started:
            self.kill()
            raise StartError("the process ended before it was ready")

    def call(self, request: bytes, timeout_s: float) -> Outcome:
        """Carry out a call. The process has ended, or must be ended, where it is late or crashed.

        Args:
            request: from `packed`.
            timeout_s: the deadline, in seconds from now; its own timer ends the process, and half a second later the
                parent, should the call have changed the timer.
        """
        began = time.monotonic()
        with contextlib.suppress(EOFError, OSError), self._watched(timeout_s + GRACE_S, len(request)):
            self._connection.send_bytes(HEADER.pack(timeout_s) + request)
            if self._connection.poll(timeout_s + GRACE_S):  # a reply, or the end of the process
                ending, value, note, seconds = json.loads(self._connection.recv_bytes())
                return Outcome(Ending(ending), value, note, seconds)
        seconds = time.monotonic() - began
        self.kill()
        if seconds >= timeout_s:
            return Outcome(Ending.LATE, note=f"killed after {seconds:.2g} s", seconds=seconds)
        killed = self._process.exitcode == -signal.SIGKILL
        note = f"the process died (exit code {self._process.exitcode})"
        return Outcome(Ending.KILLED if killed else Ending.CRASHED, note=note, seconds=seconds)

    @contextlib.contextmanager
    def _watched(self, limit_s: float, size: int) -> Iterator[None]:
        """Kill the process after a time, where a request is so large that sending it may already hang."""
        if size <= PIPE_HOLDS:
            yield
            return
        timer = threading.Timer(limit_s, self.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def forget(self) -> None:
        """Let go of a process that belongs to the process this one was forked from."""
        _children.discard(self._process)

    @property
    def lives(self) -> bool:
        """Whether the idle process is still there."""
        return not self._connection.poll(0)  # an idle worker says nothing; a dead one's end of the pipe is closed

    def kill(self) -> None:
        """End the process, whatever it does; from any thread, and nothing happens if it has ended."""
        with _processes:
            if self._connection.closed:
                return
            if self._process.exitcode == SERVER_GONE and self.lives and self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()

    def close(self) -> None:
        """End the process and free what stands for it."""
        self.kill()
        with _processes:
            self._connection.close()
            self._process.close()


def _serve(connection: Connection, memory_mb: int) -> None:
    """Runs in the worker until the parent closes its end of the pipe."""
    _prepare(memory_mb)
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            connection.send_bytes(_reply(connection.recv_bytes()))


def _prepare(memory_mb: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends big-integer code at once, where a Python handler would wait
    logging.disable(logging.WARNING)
    import edge_grpo.rewards.workers.warm  # noqa: F401, PLC0415  (already there when the server preloaded it)

    limit = memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _reply(request: bytes) -> bytes:
    """The outcome of a call as JSON: exceptions become plain texts, so that nothing unreadable travels back."""
    began = time.perf_counter()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, *HEADER.unpack_from(request))  # the kernel's own clock ends this process
    try:
        function, arguments = pickle.loads(memoryview(request)[HEADER.size :])  # noqa: S301  (made by the parent)
        return _told(Ending.DONE, function(*arguments), "", began)
    except MemoryError:
        return _told(Ending.CRASHED, None, "out of memory", began)
    except BaseException as error:  # noqa: BLE001  (SystemExit too; the caller decides what it means)
        return _told(Ending.RAISED, None, f"{type(error).__name__}: {error}"[:500], began)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _told(ending: Ending, value: object, note: str, began: float) -> bytes:
    return json.dumps([ending, value, note, time.perf_counter() - began]).encode()


class _SpawnWithoutMain:
    """Stands for `multiprocessing.spawn` in the start of a worker and leaves out the import of the main program."""

    @staticmethod
    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = spawn.get_preparation_data(name)
        return {key: value for key, value in data.items() if not key.startswith("init_main_from_")}


_LAUNCH: Any = vars(popen_forkserver.Popen)["_launch"]


class _WorkerPopen(popen_forkserver.Popen):
    """The standard start of a process, except that its one look at `spawn` sees the stand-in above."""

    _launch = types.FunctionType(_LAUNCH.__code__, {**_LAUNCH.__globals__, "spawn": _SpawnWithoutMain})


class _WorkerProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: multiprocessing.process.BaseProcess) -> _WorkerPopen:  # noqa: N802
        return _WorkerPopen(process_obj)


class _WorkerContext(ForkServerContext):
    Process = _WorkerProcess


_CONTEXT = _WorkerContext()

_children: set[Any] = vars(multiprocessing.process)["_children"]


def _after_fork() -> None:
    """In a forked child: another lock, since a thread that is not here may have held it, and a server of its own."""
    global _processes  # noqa: PLW0603
    _processes = threading.Lock()
    server: Any = vars(forkserver)["_forkserver"]
    server._lock = threading.Lock()
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


os.register_at_fork(after_in_child=_after_fork)
