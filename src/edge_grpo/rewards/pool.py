"""Worker processes that can be killed: every symbolic grading and every user's reward runs in one, under a deadline.

Only killing a process ends a big-integer computation; alarms and threads do not. Facts about this pool:

- Workers are forked from a server that has imported sympy and math-verify but no torch, so that a killed worker is
  replaced within tens of milliseconds. They start with the first call that needs one.
- The deadline of a call counts from when a worker takes it: neither waiting in the queue nor the start of a worker
  is counted. It is checked ten times a second.
- The main program is not imported again in the workers, so a script needs no ``if __name__ == "__main__"`` guard.
- Each worker has a limit of address space, ignores Ctrl-C (the parent decides what that means), and ends by itself
  if the parent is gone.
"""

import logging
import multiprocessing
import resource
import signal
import types
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as LateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import forkserver, popen_forkserver, spawn
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from pebble import ProcessExpired, ProcessPool

from edge_grpo.errors import EngineError
from edge_grpo.rewards.math import decide_by_text, same_answer

__all__ = ["Ending", "GraderPool", "Outcome"]

PRELOAD = ["edge_grpo.rewards.symbolic"]
START_UP_S = 120.0  # allowed for starting workers on a busy machine
MAX_RESTARTS = 3  # of the whole pool within one call
ORPHAN_S = 10.0  # how long after its deadline a call lives whose parent has been killed


class Ending(StrEnum):
    """How a call in a worker ended."""

    DONE = "done"
    LATE = "late"  # killed at its deadline
    CRASHED = "crashed"  # out of memory, or the process died
    RAISED = "raised"  # the function raised an exception


@dataclass(frozen=True)
class Outcome:
    """The ending of one call; ``value`` is its result where it is done, ``note`` says in words what else happened."""

    ending: Ending
    value: Any = None
    note: str = ""


class GraderPool:
    """Runs functions in killable processes; a context manager.

    Args:
        workers: number of processes.
        memory_mb: address space of each, in MiB. The interpreter with sympy takes about 80 of it.

    Source:
        Own design on pebble, https://github.com/noxdafox/pebble.

    Example:
        >>> with GraderPool(workers=1) as pool:
        ...     [outcome.value for outcome in pool.run(pow, [(2, 3), (3, 2)], timeout_s=5.0)]
        [8, 9]
    """

    def __init__(self, workers: int = 2, memory_mb: int = 2048) -> None:
        self.workers = workers
        self.memory_mb = memory_mb
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, whatever they do. The next call starts new ones."""
        pool: Any = self._pool
        self._pool = None
        if pool is not None:
            pool.stop()
            pool.join()

    def run(self, function: Callable[..., object], calls: Sequence[tuple[Any, ...]], timeout_s: float) -> list[Outcome]:
        """Call a function once for each tuple of arguments.

        Args:
            function: importable under its name in another process.
            calls: argument tuples, picklable.
            timeout_s: the deadline of each single call, in seconds.

        Returns:
            One outcome a call, in order; a late or crashed call changes no other outcome.

        Raises:
            EngineError: worker processes cannot be started.
        """
        outcomes: dict[int, Outcome] = {}
        for _ in range(MAX_RESTARTS + 1):
            missing = [index for index in range(len(calls)) if index not in outcomes]
            if not missing:
                break
            self._attempt(function, calls, missing, timeout_s, outcomes)
        else:
            if len(outcomes) < len(calls):
                raise EngineError(
                    f"reward: {self.workers} grading processes with {self.memory_mb} MiB each do not start or keep "
                    "dying. Raise reward.memory_mb, or look for what kills processes on this machine."
                )
        return [outcomes[index] for index in range(len(calls))]

    def same_answers(self, pairs: Sequence[tuple[str, str]], timeout_s: float) -> list[Outcome]:
        """Compare (answer, reference) pairs: each distinct pair once, those that text decides without a worker.

        Returns:
            One outcome a pair; ``value`` is True or False where it is done.
        """
        decided: dict[tuple[str, str], Outcome] = {}
        for pair in dict.fromkeys(pairs):
            certain = decide_by_text(*pair)
            if certain is not None:
                decided[pair] = Outcome(Ending.DONE, certain)
        open_pairs = [pair for pair in dict.fromkeys(pairs) if pair not in decided]
        decided |= dict(zip(open_pairs, self.run(same_answer, open_pairs, timeout_s), strict=True))
        return [decided[pair] for pair in pairs]

    def _attempt(
        self,
        function: Callable[..., object],
        calls: Sequence[tuple[Any, ...]],
        missing: Sequence[int],
        timeout_s: float,
        outcomes: dict[int, Outcome],
    ) -> None:
        """Fill in outcomes until all are there or the pool breaks."""
        patience_s = START_UP_S + (timeout_s + 5.0) * len(missing)
        futures: dict[int, Any] = {}
        try:
            pool = self._started()
            for index in missing:
                arguments = (function, calls[index], timeout_s)
                futures[index] = pool.schedule(_guarded, args=arguments, timeout=timeout_s)
            for index, future in futures.items():
                outcomes[index] = _outcome(future, patience_s, timeout_s)
        except (BrokenProcessPool, CancelledError, RuntimeError, OSError):
            self.close()
        except BaseException:  # Ctrl-C: leave nothing running behind
            self.close()
            raise

    def _started(self) -> ProcessPool:
        if self._pool is None:
            context = _WorkerContext()
            context.set_forkserver_preload(PRELOAD)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by server and workers
            try:
                forkserver.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._pool = ProcessPool(self.workers, initializer=_prepare, initargs=(self.memory_mb,), context=context)
        return self._pool


def _outcome(future: Any, patience_s: float, timeout_s: float) -> Outcome:
    try:
        ending, value, note = future.result(timeout=patience_s)
    except LateError:
        if not future.done():
            raise BrokenProcessPool("no worker took the call") from None
        return Outcome(Ending.LATE, note=f"killed after {timeout_s:g} s")
    except ProcessExpired as error:
        return Outcome(Ending.CRASHED, note=f"the process died (exit code {error.exitcode})")
    except BrokenProcessPool:
        raise
    except Exception as error:  # noqa: BLE001  (whatever could not be pickled)
        return Outcome(Ending.RAISED, note=f"{type(error).__name__}: {error}")
    return Outcome(ending, value, note)


def _prepare(memory_mb: int) -> None:
    """Runs once in every new worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends big-integer code at once, where a Python handler would wait
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.WARNING)
    import edge_grpo.rewards.symbolic  # noqa: F401, PLC0415  (already there when the server preloaded it)

    limit = memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _guarded(function: Callable[..., object], arguments: tuple[Any, ...], timeout_s: float) -> tuple[Ending, Any, str]:
    """Runs in the worker: exceptions become plain texts, so that nothing unpicklable travels back."""
    signal.setitimer(signal.ITIMER_REAL, timeout_s + ORPHAN_S)
    try:
        return Ending.DONE, function(*arguments), ""
    except MemoryError:
        return Ending.CRASHED, None, "out of memory"
    except BaseException as error:  # noqa: BLE001  (SystemExit too; the caller decides what it means)
        return Ending.RAISED, None, f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


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
