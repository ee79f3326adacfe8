"""Several processes acting as one: what they must know, decide or add up together goes through a ``World``."""

import atexit
import os
import pickle
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore

from edge_grpo.base.errors import ConfigError, EdgeGrpoError, RankLostError, ShapeError
from edge_grpo.base.interrupt import StepDropped, Terminated, ignore_sigterm
from edge_grpo.base.job import RERUN, Meeting
from edge_grpo.base.ranks import own_rank
from edge_grpo.base.text import counted

__all__ = ["World", "join_world", "leave", "reports"]

S = TypeVar("S")
T = TypeVar("T")

_PATIENCE = 20  # tenths of a second
_LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
_BROKEN = re.compile(r"connection (closed|reset|refused)|broken pipe|socket|gloo|nccl|store", re.IGNORECASE)
_AFTER_FIRST_S = 1.0


@dataclass(frozen=True)
class _Failed:
    """What a rank passes on in place of a result."""

    error: BaseException


@dataclass(frozen=True)
class World:
    """The processes of a job, a single one by default; all of them call the same methods in the same order.

    Results travel as pickles, between processes of one job only.

    Args:
        rank: this process, counted from 0.
        size: how many there are.
        local_size: how many of them run on this machine.
        places: host and process number of each rank.
        group: of torch.distributed, for what is not on a GPU.
        exposed: the block in which a signal may interrupt a rank's own work.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    places: tuple[tuple[str, int], ...] = ()
    group: Any = None
    exposed: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes files and speaks to the user."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this is the first rank of its machine, whose files it sees for the others there."""
        hosts = [host for host, _ in self.places]
        return self.is_first or hosts[self.rank] not in hosts[: self.rank]

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Do some work on every rank, and give every rank all results, in the order of ranks.

        Raises:
            BaseException: what any of the ranks raised, on all of them; ``shared`` is set on it.
        """
        if self.size == 1:
            return [work()]
        outcomes: list[Any] = [None] * self.size
        own = self._outcome(work)
        dist.all_gather_object(outcomes, own, group=self.group)
        outcomes[self.rank] = own  # keeps the traceback of an error
        return self._results(outcomes)

    def each(self, work: Callable[[], T]) -> T:
        """Do some work on every rank, each for itself; what one of them raises, all raise."""
        own: list[T] = []
        self.gather(lambda: own.append(work()))
        return own[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do some work on every rank, each for itself; the ranks of a machine take turns, for want of memory.

        Raises:
            BaseException: as :meth:`gather`; the ranks whose turn it was not yet then do nothing.
        """
        made: list[T] = []
        hosts = [host for host, _ in self.places] or [""]
        own = hosts[: self.rank].count(hosts[self.rank])
        for turn in range(max(map(hosts.count, hosts))):
            self.gather(lambda: made.append(work()) if turn == own else None)  # noqa: B023 - called at once
        return made[0]

    def share(self, items: Sequence[S], work: Callable[[Sequence[S]], Iterable[T]]) -> list[T]:
        """Divide items among the ranks, and give every rank all results, one per item and in their order.

        Args:
            items: the same on every rank.
            work: makes one result per item; called on every rank, if need be with nothing.
        """
        parts = self.gather(lambda: list(work(items[self.rank :: self.size])))
        results: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            if len(part) != (wanted := len(items[rank :: self.size])):
                raise ShapeError(f"{len(part)} results for {wanted} items")
            results[rank :: self.size] = part
        return results

    def first(self, work: Callable[[], T]) -> T:
        """Do some work on rank 0 alone, and give every rank the result.

        Raises:
            BaseException: what rank 0 raised, on all ranks; ``shared`` is set on it.
        """
        if self.size == 1:
            return work()
        outcome = [self._outcome(work) if self.is_first else None]
        own = outcome[0]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        result: T = self._results([own if self.is_first else outcome[0]])[0]
        return result

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add the values of each name over all ranks; a name that a rank lacks counts as 0 there."""
        total: dict[str, float] = {}
        for part in self.gather(lambda: dict(values)):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return any(self.gather(lambda: flag))

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Add each tensor over all ranks, in place."""
        if self.size > 1:
            for pending in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                pending.wait()

    @contextmanager
    def unbroken(self, advice: Callable[[], str] = lambda: RERUN) -> Iterator[None]:
        """Report another rank's end by name, and not as the collective that it breaks.

        Args:
            advice: what the user may do then; repeat the command, if nothing else is said.
        Raises:
            RankLostError: another rank ended or does not answer, so that this one cannot continue.
        """
        try:
            yield
        except (RuntimeError, Terminated) as error:
            reason = self._lost(error)
            if not reason:
                raise
            raise RankLostError(f"{reason}; {advice()}") from error

    def _lost(self, error: RuntimeError | Terminated) -> str:
        """Which rank's end an error is due to, if any: whoever starts the ranks may stop all after the first."""
        if self.size == 1 or getattr(error, "shared", False):
            return ""
        if isinstance(error, RuntimeError) and not _is_broken(error):
            return ""
        if isinstance(error, RuntimeError):
            ignore_sigterm()  # torchrun sends it to the ranks that are left
        for _ in range(1 if isinstance(error, Terminated) else _PATIENCE):
            if gone := self._gone():
                return f"rank {', '.join(map(str, gone))} of {self.size} ended"
            time.sleep(0.1)
        if isinstance(error, Terminated):
            return ""
        if _LATE.search(str(error)):
            return f"rank {self.rank} of {self.size} waited for another one for longer than distributed.timeout_s"
        return f"rank {self.rank} of {self.size} lost contact with another one"

    def _gone(self) -> list[int]:
        """The ranks of this machine that have ended; a moment passes until whoever started them notices."""
        host = socket.gethostname()
        return [rank for rank, (place, number) in enumerate(self.places) if place == host and not _is_alive(number)]

    def _outcome(self, work: Callable[[], T]) -> T | _Failed:
        try:
            with self.exposed():
                return work()
        except (Exception, StepDropped) as error:  # noqa: BLE001 - raised again, on all ranks
            if not isinstance(error, EdgeGrpoError | StepDropped):
                error.add_note(f"on rank {self.rank}:\n{traceback.format_exc()}")
            return _Failed(_portable(error))

    def _results(self, outcomes: list[Any]) -> list[Any]:
        """The outcomes, unless one of them is an error."""
        failures = {rank: each.error for rank, each in enumerate(outcomes) if isinstance(each, _Failed)}
        if not failures:
            return outcomes
        rank = min(failures, key=lambda rank: (isinstance(failures[rank], StepDropped), rank))
        error = failures[rank]
        alone = len({str(each) for each in failures.values()}) > 1 or len(failures) < len(outcomes)
        if isinstance(error, EdgeGrpoError) and alone:
            error.args = (f"rank {rank}: {error}", *error.args[1:])
        error.shared = True  # type: ignore[attr-defined]
        raise error


def _portable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else one that says the same; a user's error stays one."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - just made here
    except Exception:  # noqa: BLE001 - whatever an exception's own class may raise
        if isinstance(error, EdgeGrpoError):
            return EdgeGrpoError(str(error))
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _is_broken(error: RuntimeError) -> bool:
    """Whether a collective failed because of another rank."""
    return isinstance(error, dist.DistError) or bool(_BROKEN.search(str(error)) or _LATE.search(str(error)))


def _is_alive(number: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return True


@lru_cache(maxsize=1)
def join_world(timeout_s: float = 1800.0) -> World:
    """The processes that torchrun or ``--processes`` started together with this one; a world of one otherwise.

    They stay joined until the process exits. On GPUs each process takes the one of its local rank.

    Args:
        timeout_s: how long a rank waits for the others, in seconds.
    Raises:
        RankLostError: the others do not come.
    """
    patience = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        if own_rank() is None:
            return World()
        backend = "gloo"
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            if local >= torch.cuda.device_count():
                raise ConfigError(
                    f"{local + 1} processes or more on a machine with {counted(torch.cuda.device_count(), 'GPU')}; "
                    "start one process per GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES="
                )
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"
        meeting: dict[str, Any] = {}
        if place := Meeting.of():
            meeting = {
                "init_method": f"file://{place.rendezvous}",
                "rank": int(os.environ["RANK"]),
                "world_size": int(os.environ["WORLD_SIZE"]),
            }
        try:
            dist.init_process_group(backend, timeout=patience, **meeting)
        except (RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RankLostError(f"rank {os.environ['RANK']}: cannot meet the other ranks ({reason})") from error
        atexit.register(_part)
    size = dist.get_world_size()
    on_cpu = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=patience)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    world = World(dist.get_rank(), size, local, group=on_cpu)
    return replace(world, places=tuple(world.gather(lambda: (socket.gethostname(), os.getpid()))))


def _part() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


def leave(code: int | str | None) -> None:
    """End this process if it has joined others, without taking the interpreter apart: gloo's threads may abort then.

    Exit functions run and streams are flushed, as in an ordinary exit.

    Args:
        code: as for `sys.exit`.
    """
    if not dist.is_initialized() or isinstance(code, str):
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def reports(error: BaseException) -> bool:
    """Whether this process is the one that tells the user of an error: only one of a job does.

    An error that all ranks raised is for rank 0. Of others the first one counts: its rank ends, and so the rest fail.
    Rank 0 goes first, since all may have the same reason.
    """
    rank = own_rank()
    if rank is None:
        return True
    if getattr(error, "shared", False):
        return rank == 0
    if rank and not isinstance(error, RankLostError):
        time.sleep(_AFTER_FIRST_S)
    if place := Meeting.of():
        return place.claim()
    try:
        return bool(_store().compare_set("edge_grpo/error", "", str(rank)) == str(rank).encode())
    except (RuntimeError, LookupError):  # kept by a process that is gone, or by none
        return True


def _store() -> Store:
    """Where the ranks that torchrun started leave word for each other, even before they have met."""
    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False)
