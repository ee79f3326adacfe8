"""Rank processes that are started once and called many times, for tests and benchmarks."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from edge_grpo.base.ranks import RENDEZVOUS
from edge_grpo.base.world import join_world

__all__ = ["Pool", "RankError"]

_START_S = 120.0


class RankError(RuntimeError):
    """A function failed on a rank; ends with that rank's traceback."""


class Pool:
    """Processes of one thread each that form one world of ranks; the first call starts them.

    Args:
        size: how many; 1 is an ordinary process, which knows nothing of ranks.
        timeout_s: how long a call may take.
    """

    def __init__(self, size: int, *, timeout_s: float = 120.0) -> None:
        self.size, self.timeout_s = size, timeout_s
        self._open = ExitStack()
        self._pipes: list[Connection] = []
        self._asked = False

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """Let every rank begin with ``function(*args)``, a function of a module; :meth:`results` waits for it."""
        if self._asked:  # and nobody took the results
            self.close()
        if not self._pipes:
            self._start()
        self._asked = True
        for pipe in self._pipes:
            pipe.send((function, args))

    def results(self) -> list[Any]:
        """What the function returned, in the order of ranks.

        Raises:
            RankError: it failed on a rank, or took too long. Unless all ranks learned of it, they are stopped.
        """
        found: dict[int, Any] = {}
        waiting = dict(zip(self._pipes, range(self.size), strict=True))
        while waiting:
            ready = wait(list(waiting), self.timeout_s)
            if not ready:
                self.close()
                raise RankError(f"no answer from ranks {sorted(waiting.values())} in {self.timeout_s:.0f} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = waiting.pop(pipe)
                try:
                    found[rank] = pipe.recv()
                except EOFError:
                    self.close()
                    raise RankError(f"rank {rank} of {self.size} ended") from None
                failed, known, value = found[rank]
                if failed and not known:
                    self.close()
                    raise RankError(f"on rank {rank} of {self.size}:\n{value}")
        self._asked = False
        if errors := [f"on rank {rank}:\n{found[rank][2]}" for rank in sorted(found) if found[rank][0]]:
            raise RankError(errors[0])
        return [found[rank][2] for rank in range(self.size)]

    def call(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Run ``function(*args)`` on every rank; see :meth:`start` and :meth:`results`."""
        self.start(function, *args)
        return self.results()

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        self._pipes, self._asked = [], False
        self._open.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["edge_grpo.training.loop"])
        place = self._open.enter_context(tempfile.TemporaryDirectory(prefix="ranks-"))
        for rank in range(self.size):
            own, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, str(Path(place) / "meeting"), theirs))
            process.start()
            theirs.close()
            self._open.callback(process.join, 10.0)
            self._open.callback(process.kill)
            self._open.callback(own.close)
            self._pipes.append(own)


def _serve(rank: int, size: int, meeting: str, pipe: Connection) -> None:
    """Join the world and do what is asked for, until nobody asks any more."""
    torch.set_num_threads(1)
    if size > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", RENDEZVOUS)
        os.environ.update(zip(names, map(str, (rank, rank, size, size, meeting)), strict=True))
        join_world(_START_S)
    with suppress(EOFError, BrokenPipeError):  # whoever called is gone
        while True:
            pipe.send(_outcome(*pipe.recv()))


def _outcome(function: Callable[..., Any], args: Sequence[Any]) -> tuple[bool, bool, Any]:
    """Whether a call failed, whether all ranks know of that, and its result or traceback."""
    try:
        return False, True, function(*args)
    except BaseException as error:  # noqa: BLE001 - whoever called is told
        return True, getattr(error, "shared", False), traceback.format_exc()
