"""Calls and their outcomes, as they travel between the parent and a worker.

A call is a pickle made by the parent. Its reply is JSON, so nothing that a worker says is ever unpickled.
"""

import json
import pickle
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Ending", "Outcome", "answer", "packed", "read", "timed"]

HEADER = struct.Struct("d")  # the deadline of a call, in seconds


class Ending(StrEnum):
    """How a call in a worker ended."""

    DONE = "done"
    LATE = "late"  # killed at its deadline
    CRASHED = "crashed"  # out of memory, or the process died
    KILLED = "killed"  # from outside, by a user or the kernel's out-of-memory killer, in every attempt
    RAISED = "raised"  # the function raised an exception


@dataclass(frozen=True)
class Outcome:
    """How one call ended: ``value`` is its result if it is done, ``note`` says what happened if it is not.

    ``seconds``: the time of the call, measured in its worker; for a call that was killed, by the parent.
    """

    ending: Ending
    value: Any = None
    note: str = ""
    seconds: float = 0.0


def packed(function: Callable[..., object], arguments: tuple[Any, ...]) -> bytes:
    """A call as a request, which any number of attempts may send; raises whatever pickle raises."""
    return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)


def timed(request: bytes, timeout_s: float) -> bytes:
    """A request with its deadline, ready to be sent."""
    return HEADER.pack(timeout_s) + request


def answer(message: bytes) -> bytes:
    """Run a call in this worker, under its deadline, and encode the outcome; exceptions become plain text."""
    began = time.perf_counter()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, *HEADER.unpack_from(message))  # the kernel's own clock ends this process
    try:
        function, arguments = pickle.loads(memoryview(message)[HEADER.size :])  # noqa: S301  (made by the parent)
        return _encoded(Ending.DONE, function(*arguments), "", began)
    except MemoryError:
        return _encoded(Ending.CRASHED, None, "out of memory", began)
    except BaseException as error:  # noqa: BLE001  (SystemExit too; the caller decides what it means)
        notes = getattr(error, "__notes__", None)
        where = "".join(f" ({note})" for note in notes) if isinstance(notes, list) else ""
        return _encoded(Ending.RAISED, None, f"{type(error).__name__}: {error}"[:500] + where[:500], began)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _encoded(ending: Ending, value: object, note: str, began: float) -> bytes:
    return json.dumps([ending, value, note, time.perf_counter() - began]).encode()


def read(reply: bytes) -> Outcome:
    """The outcome in a worker's reply."""
    ending, value, note, seconds = json.loads(reply)
    return Outcome(Ending(ending), value, note, seconds)
