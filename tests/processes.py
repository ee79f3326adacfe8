"""Processes by parent or group, read from /proc, and waiting for what another process does.

Imports nothing large: a grading process that is to call a function of this module has little address space.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def children(parent: int) -> list[int]:
    """Living children of a process; no zombies."""
    return [pid for pid, of_parent, _ in _living() if of_parent == parent]


def members(group: int) -> list[int]:
    """Living members of a process group; no zombies."""
    return [pid for pid, _, of_group in _living() if of_group == group]


def living(pid: int) -> bool:
    """Whether a process has not ended; an orphan may then wait some seconds for process 1 to reap it."""
    return any(one == pid for one, _, _ in _living())


def _living() -> Iterator[tuple[int, int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if state != "Z":
            yield int(stat.parent.name), int(parent), int(group)


def gone(pid: int) -> bool:
    """Whether a process has ended and been reaped."""
    return not Path(f"/proc/{pid}").exists()


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for a condition; fail if it does not hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


def shell(command: str, shells: tuple[str, ...]) -> int:
    """The exit code of a command: a comparison of answers, to a grader, in which anything may happen."""
    return subprocess.call([shells[0], "-c", command])
