"""``--processes N``: the same command in N processes of this machine, which do the work together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from edge_grpo.base.ranks import RENDEZVOUS, own_rank

__all__ = ["LOST", "RERUN", "Processes", "follow_launcher", "launch", "launched"]

LOST: Final = 75
"""Exit code of a process that ends only because another one did."""

RERUN: Final = "repeat the command to resume"
"""How to continue a command whose work is resumed by repeating it, for messages."""

_GRACE_S = (8.0, 8.0)  # until the others are asked to stop, and from then on until they are killed

Processes = Annotated[
    int, typer.Option("--processes", min=0, metavar="N", help="Run in N processes of this machine, one per GPU.")
]


def launched(processes: int) -> bool:
    """Whether this command is to start processes; False in those processes themselves."""
    return processes > 0 and own_rank() is None


def launch(processes: int, words: Sequence[str] = (), *, retry: str = "train --resume continues") -> int:
    """Start the processes, wait for them, and end them all if one of them ends badly.

    Args:
        processes: how many.
        words: the command line; empty = this process's own.
        retry: how to continue after a process was killed, for the message.
    Returns:
        the exit code: 0, or that of the first process that failed; 2 if it was killed.
    """
    command = [sys.executable, "-P", "-m", "edge_grpo", *(words or sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="edge-grpo-") as place, ExitStack() as stack:
        ranks = []
        for rank in range(processes):
            environment = {**os.environ, **_environment(rank, processes, Path(place))}
            ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))  # noqa: S603 - our own
            stack.callback(_end, ranks[-1])
        with _forwarding(ranks):
            return _wait(ranks, retry)


def _environment(rank: int, size: int, place: Path) -> Mapping[str, str]:
    """What tells a process which one it is, where the others are, and how many threads it may use."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // size))),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        RENDEZVOUS: str(place / "rendezvous"),
    }


def _wait(ranks: Sequence["subprocess.Popen[bytes]"], retry: str) -> int:
    """Wait until all have ended; once one fails, the others have a little time to end by themselves."""
    failed: list[int] = []
    deadlines = [float("inf")] * 2
    while any(rank.poll() is None for rank in ranks):
        if not failed and (failed := [number for number, rank in enumerate(ranks) if rank.returncode]):
            now = time.monotonic()
            deadlines = [now + _GRACE_S[0], now + sum(_GRACE_S)]
        for deadline, number in zip(deadlines, (signal.SIGTERM, signal.SIGKILL), strict=True):
            if time.monotonic() > deadline:
                for rank in ranks:
                    rank.send_signal(number)
                deadlines = [float("inf"), deadlines[1] if number == signal.SIGTERM else float("inf")]
        time.sleep(0.05)
    failed = failed or [number for number, rank in enumerate(ranks) if rank.returncode]
    codes = [ranks[number].returncode for number in failed]
    if killed := [
        f"rank {number} of {len(ranks)} was killed ({_named(-code)})"
        for number, code in zip(failed, codes, strict=True)
        if code < 0
    ]:
        print(f"edge-grpo: {'; '.join(killed)}, so the others ended too; {retry}", file=sys.stderr)
        return 2
    own = [code for code in codes if code != LOST]
    if codes and not own:
        print(f"edge-grpo: the processes lost contact with each other; {retry}", file=sys.stderr)
        return 2
    return own[0] if own else 0


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def _forwarding(ranks: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on: the processes have sessions of their own, so that each gets a signal once."""

    def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for rank in ranks:
            rank.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(rank: "subprocess.Popen[bytes]") -> None:
    """Leave no process behind."""
    if rank.poll() is None:
        rank.kill()
    rank.wait()


def follow_launcher() -> None:
    """In a started process: stop when the one that started it is gone."""
    if RENDEZVOUS not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="launcher").start()
