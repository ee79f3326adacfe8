"""``--processes N``: the same command in N processes of this machine, which do the work together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, Protocol, runtime_checkable

import typer

from edge_grpo.base.cores import num_cores
from edge_grpo.base.errors import ConfigError
from edge_grpo.base.job import RERUN, Meeting, next_command
from edge_grpo.base.ranks import RENDEZVOUS, own_rank

__all__ = ["LOST", "RERUN", "Process", "Processes", "follow_launcher", "launch", "launched"]

LOST: Final = 75
"""Exit code of a process that ends only because another one did."""

_PER_CORE: Final = 8
"""More processes than this per CPU core are a typing error, which would fill the memory."""

_LAUNCHER: Final = "EDGE_GRPO_LAUNCHER"  # the launcher's process number
_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"  # set by torchrun, whose processes are children of its own

Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=0, metavar="N", help="Run in N processes of this machine, one per GPU; 0: this one."
    ),
]


@runtime_checkable
class Process(Protocol):
    """What is needed of a started process; `subprocess.Popen` has it."""

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it still runs."""
        ...

    def wait(self) -> int:
        """The exit code, once it has ended."""
        ...


def _start(command: Sequence[str], environment: Mapping[str, str]) -> Process:
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own command


def launched(processes: int) -> bool:
    """Whether this command is to start processes; False in those processes themselves.

    Raises:
        ConfigError: torchrun has started processes already, or this machine is too small for so many.
    """
    if not processes or _LAUNCHER in os.environ:
        return False
    if own_rank() is not None:
        raise ConfigError(
            "--processes: torchrun has started the processes already (RANK and WORLD_SIZE are set); use one of the two"
        )
    if processes > _PER_CORE * (cores := num_cores()):
        raise ConfigError(
            f"--processes: got {processes}, and this machine has {cores} CPU core{'s' * (cores > 1)}; "
            f"wanted at most {_PER_CORE} per core"
        )
    return True


def launch(
    processes: int,
    words: Sequence[str] = (),
    *,
    retry: str = "",
    start: Callable[[Sequence[str], Mapping[str, str]], Process] = _start,
    grace_s: float = 8.0,
) -> int:
    """Start the processes, wait for them, and end them all if one of them fails.

    Ctrl-C and SIGTERM are passed on; after a second one, the processes have ``grace_s`` to end.

    Args:
        processes: how many.
        words: the command line; empty = this process's own.
        retry: how to continue after an early end, for the message; empty = how to resume the run.
        start: starts a command with an environment, in a session of its own, so that a signal reaches it only once.
        grace_s: once one has failed, seconds until the others are asked to stop, and again until they are killed.
    Returns:
        the exit code: 0, or that of the first process that failed; 2 if it was killed or lost contact with another.
    """
    command = [sys.executable, "-P", "-m", "edge_grpo", *(words or sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="edge-grpo-") as name, ExitStack() as stack:
        place, ranks = Meeting(Path(name)), []
        for rank in range(processes):
            ranks.append(start(command, {**os.environ, **_environment(rank, processes, place)}))
            stack.callback(_end, ranks[-1])
        crew = _Crew(ranks, grace_s)
        with crew.forwarding():
            crew.wait()
        code, line = crew.verdict(place, retry)
        if line:
            print(f"edge-grpo: {line}", file=sys.stderr)
        return code


def _environment(rank: int, size: int, place: Meeting) -> Mapping[str, str]:
    """What tells a process which one it is, where the others are, and how many threads it may use."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, num_cores() // size))),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        RENDEZVOUS: str(place.rendezvous),
        _LAUNCHER: str(os.getpid()),
    }


class _Crew:
    """Waits for the processes, and finds out why they ended."""

    def __init__(self, ranks: Sequence[Process], grace_s: float) -> None:
        self.ranks, self.grace_s = ranks, grace_s
        self.failed: list[int] = []  # the first to fail; several if they did at the same moment
        self.late: list[int] = []  # those that had to be asked to stop
        self.stuck: list[int] = []  # those that had to be killed
        self.signals: list[int] = []
        self._ask_at = self._kill_at = float("inf")

    def wait(self) -> None:
        """Wait until all have ended; once one fails, the others have a little time to end by themselves."""
        while running := [number for number, rank in enumerate(self.ranks) if rank.poll() is None]:
            now = time.monotonic()
            self._notice_failure(now)
            if now > self._ask_at:
                self._ask_at, self.late = float("inf"), running
                self._send(signal.SIGTERM)
            if now > self._kill_at:
                self._kill_at, self.stuck = float("inf"), running
                self._send(signal.SIGKILL)
            time.sleep(0.05)
        self._notice_failure(time.monotonic())

    def _notice_failure(self, now: float) -> None:
        if not self.failed and (failed := [number for number, rank in enumerate(self.ranks) if rank.returncode]):
            self.failed = failed
            self._ask_at, self._kill_at = now + self.grace_s, min(self._kill_at, now + 2 * self.grace_s)

    def _send(self, number: int) -> None:
        for rank in self.ranks:
            rank.send_signal(number)

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Pass Ctrl-C and SIGTERM on."""

        def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.signals.append(number)
            if len(self.signals) > 1:
                self._kill_at = min(self._kill_at, time.monotonic() + self.grace_s)
            self._send(number)

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def verdict(self, place: Meeting, retry: str) -> tuple[int, str]:
        """The exit code, and what the user should read about the end; empty if a process has said it."""
        codes = {number: self._code(number) for number in self.failed}
        advice = retry or next_command(place.run, {**os.environ, **_environment(0, len(self.ranks), place)})
        if killed := {number: -code for number, code in codes.items() if code < 0 and number not in self.stuck}:
            named = " and ".join(f"{self._name([number])} was killed by {_named(by)}" for number, by in killed.items())
            return 2, f"{named}, and the others were stopped; {advice}"
        if own := [code for code in codes.values() if code not in (LOST, -signal.SIGKILL)]:
            told = place.has_report or own[0] < 128 or self.ranks[0].returncode == own[0]
            return own[0], "" if told else "stopped"
        if self.stuck and len(self.signals) > 1:
            return 128 + self.signals[-1], f"{self._name(self.stuck)} had to be killed; {advice}"
        if self.late:
            return 2, f"{self._name(self.late)} kept the others waiting too long (distributed.timeout_s); {advice}"
        if codes:
            return 2, f"the processes lost contact with each other; {advice}"
        return 0, ""

    def _code(self, number: int) -> int:
        """The exit code; that of an orderly stop if a signal passed on came before the process was ready for it."""
        code = self.ranks[number].returncode or 0
        return 128 - code if -code in self.signals else code

    def _name(self, numbers: Sequence[int]) -> str:
        return f"rank{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))} of {len(self.ranks)}"


def _named(number: int) -> str:
    """A signal's name; the kernel sends SIGKILL where memory ran out."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (out of memory, unless you sent it)" if number == signal.SIGKILL else name


def _end(rank: Process) -> None:
    """Leave no process behind."""
    rank.send_signal(signal.SIGKILL)
    rank.wait()


def follow_launcher(*, grace_s: float = 60.0, look_s: float = 1.0) -> None:
    """In a process that ``--processes`` or torchrun started: stop once they are gone, like on SIGTERM.

    Args:
        grace_s: seconds until a process that has not stopped is killed.
        look_s: seconds between two looks.
    """
    if own_rank() is None or not {_LAUNCHER, _TORCHRUN} & os.environ.keys():
        return
    parent = int(os.environ.get(_LAUNCHER, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(look_s)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="launcher").start()
