"""Worker processes that can be killed: symbolic grading and custom rewards run there, under a deadline.

Only killing a process ends a big-integer computation; alarms and threads do not. Facts about this pool:

- Workers are forked from a template process that has imported sympy and math-verify but no torch, so replacing a killed
  worker takes tens of milliseconds. They start with the first call that needs one.
- The deadline of a call counts from when a worker takes it: waiting in the queue and starting a worker are not counted.
  The worker's own timer ends it; half a second later the parent does. All clocks are monotonic, so changing the system
  clock has no effect.
- A call whose worker dies before the deadline is retried in a fresh one; all attempts share the deadline. Being killed
  from outside (SIGKILL, which no answer can send) is not the call's fault and earns more retries; three crashes end it.
- Several threads may share a pool; each gets its own outcomes. In a forked child a pool starts workers of its own.
- Workers never import the main program, so scripts need no ``if __name__ == "__main__"`` guard.
- Each worker has an address-space limit, ignores Ctrl-C (the parent decides what that means), and exits when the parent
  does.
"""

import atexit
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from edge_grpo.base.errors import EngineError
from edge_grpo.rewards.workers.calls import Ending, Outcome, packed
from edge_grpo.rewards.workers.template import SHARED, Template
from edge_grpo.rewards.workers.worker import StartError, Worker

__all__ = ["Ending", "GraderPool", "Outcome"]

PAUSES_S = (0.0, 0.1, 1.0, 5.0)  # before each attempt to start a worker, until the pool gives up
ATTEMPTS = {Ending.CRASHED: 3, Ending.KILLED: 20}  # at one call, each in a fresh worker, until this is its ending


class GraderPool:
    """Runs functions in killable processes; a context manager.

    Args:
        workers: number of processes.
        memory_mb: address space of each, in MiB. The interpreter with sympy takes about 80 of it.
        template: the process that workers are forked from; one serves every pool of the program.
        pauses_s: seconds before each attempt to start a worker; after the last one, the pool gives up.

    Source:
        Own design; the docstring of this module gives the reasons.

    Example:
        >>> with GraderPool(workers=1) as pool:
        ...     [outcome.value for outcome in pool.run(pow, [(2, 3), (3, 2)], timeout_s=5.0)]
        [8, 9]
    """

    def __init__(
        self,
        workers: int = 2,
        memory_mb: int = 2048,
        *,
        template: Template = SHARED,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self.workers = workers
        self.memory_mb = memory_mb
        self._template = template
        self._pauses_s = pauses_s
        self._crew: _Crew | None = None
        self._lock = threading.Lock()
        _POOLS.add(self)

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, whatever they are doing. The next call starts new ones; a running call raises."""
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.end()

    def run(self, function: Callable[..., object], calls: Sequence[tuple[Any, ...]], timeout_s: float) -> list[Outcome]:
        """Call a function once per tuple of arguments.

        Args:
            function: importable by name in another process.
            calls: argument tuples, picklable.
            timeout_s: the deadline of each call, in seconds.

        Returns:
            One outcome per call, in order; a late or crashed call changes no other outcome. Values have been through
            JSON: a tuple becomes a list.

        Raises:
            EngineError: workers could not be started, or another thread closed the pool.
        """
        if not calls:
            return []
        futures: list[Future[Outcome]] = []
        try:
            crew = self._started()
            futures = [crew.submit(function, arguments, timeout_s) for arguments in calls]
            return [future.result() for future in futures]
        except CancelledError:
            raise EngineError("reward: the grading processes were closed while answers were being graded") from None
        except EngineError:
            for future in futures:
                future.cancel()
            raise
        except BaseException:  # Ctrl-C: leave nothing running behind
            self.close()
            raise

    def _started(self) -> "_Crew":
        with self._lock:
            if self._crew is None:
                self._crew = _Crew(self.workers, self.memory_mb, self._template, self._pauses_s)
            return self._crew


class _Crew:
    """The workers of a pool until it is closed, and as many threads, each waiting for one worker at a time."""

    def __init__(self, workers: int, memory_mb: int, template: Template, pauses_s: Sequence[float]) -> None:
        self._size = workers
        self._memory_mb = memory_mb
        self._template = template
        self._pauses_s = pauses_s
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="edge-grpo grader")
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._living: set[Worker] = set()
        self._ended = threading.Event()
        _CREWS.add(self)

    def submit(self, function: Callable[..., object], arguments: tuple[Any, ...], timeout_s: float) -> Future[Outcome]:
        with self._lock:
            if self._ended.is_set():
                raise CancelledError
            return self._threads.submit(self._call, function, arguments, timeout_s)

    def end(self) -> None:
        """Kill the workers and wait for the threads."""
        with self._lock:
            self._ended.set()
            living = list(self._living)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in living:
            worker.kill()
        self._threads.shutdown()
        for worker in living:
            self._drop(worker)

    def _call(self, function: Callable[..., object], arguments: tuple[Any, ...], timeout_s: float) -> Outcome:
        try:
            request = packed(function, arguments)
        except Exception as error:  # noqa: BLE001  (whatever pickling a user's class raises)
            return Outcome(Ending.RAISED, note=f"{type(error).__name__}: {error}")
        outcome = Outcome(Ending.CRASHED)
        spent_s = 0.0
        endings: Counter[Ending] = Counter()
        while not any(endings[ending] >= most for ending, most in ATTEMPTS.items()):
            worker = self._take()
            attempt = worker.call(request, timeout_s - spent_s)
            spent_s += attempt.seconds
            outcome = replace(attempt, seconds=spent_s)
            if attempt.ending in (Ending.DONE, Ending.RAISED):
                self._give_back(worker)
                break
            self._drop(worker)
            endings[attempt.ending] += 1
            if attempt.ending is Ending.LATE or spent_s >= timeout_s:
                break
        return outcome

    def _take(self) -> Worker:
        """An idle worker that is alive, or a new one."""
        while True:
            with self._lock:
                if self._ended.is_set():
                    raise CancelledError
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._start()
            if worker.lives:
                return worker
            self._drop(worker)

    def _start(self) -> Worker:
        reason = ""
        for pause_s in self._pauses_s:
            if self._ended.wait(pause_s):
                raise CancelledError
            try:
                worker = Worker(self._memory_mb, self._template)
            except StartError as error:
                reason = str(error)
                continue
            with self._lock:
                self._living.add(worker)
                ended = self._ended.is_set()
            if ended:
                self._drop(worker)
                raise CancelledError
            return worker
        raise EngineError(
            f"reward: {self._size} grading processes with {self._memory_mb} MiB each fail to start or keep dying "
            f"({reason}). Raise reward.memory_mb, or find out what is killing processes on this machine."
        )

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            known = worker in self._living
            self._living.discard(worker)
        if known:
            worker.close()

    def forget(self) -> None:
        for worker in self._living:
            worker.forget()


_POOLS: weakref.WeakSet[GraderPool] = weakref.WeakSet()
_CREWS: weakref.WeakSet[_Crew] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Before the templates end, which were imported first, so that every worker is reaped."""
    for crew in list(_CREWS):
        crew.end()


def _after_fork() -> None:
    """In a forked child, which has none of the threads and must not end its parent's workers: pools start afresh."""
    for crew in _CREWS:
        crew.forget()
    _CREWS.clear()
    for pool in _POOLS:
        pool._crew, pool._lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
