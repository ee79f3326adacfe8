"""Trackers that may be slow or out of reach: a thread sends what they are given, and never holds up or ends a run.

What was not sent is counted and said. The id of a service's run is kept in the run folder, so that a resumed run
continues it. Services cannot forget steps, so where steps are logged again that a service has already, and where it
lacks some, a new run of the service replaces the old one and is filled from ``metrics.jsonl``.
"""

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from edge_grpo.base.text import counted, visible

__all__ = ["Remote", "Row", "Service", "Target"]

Row = Mapping[str, float | None]
_AGAIN_S: Final = 60.0  # seconds between two attempts to reach a service


@dataclass(frozen=True)
class Target:
    """Which run of a service is meant.

    Args:
        folder: the tracker's own folder, inside of the run's.
        project: the project or experiment.
        name: what the run is called.
        settings: its resolved settings.
        id: the run to continue; empty = a new one.
        replaces: the run that a new one replaces; empty = none.
    """

    folder: Path
    project: str
    name: str
    settings: Mapping[str, Any]
    id: str = ""
    replaces: str = ""


@runtime_checkable
class Service(Protocol):
    """One run of a service, used from one thread. Its methods may raise anything, but not wait for minutes."""

    id: str
    """What continues this run."""
    about: str
    """Where the run can be seen."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Send finite metrics of a step; ``time/at`` is when it ended, in seconds since 1970."""

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send some rollouts."""

    def close(self) -> None:
        """Send what is left, and mark the run as ended."""


@dataclass
class _Kept:
    """What the run folder keeps: the service's run, the last step given to it, and whether it has all of them."""

    id: str = ""
    step: int = -1
    complete: bool = True


class Remote:
    """A tracker in front of a service.

    Args:
        name: the tracker's.
        connect: opens the service's run; called in the thread.
        target: which run, with no ``id`` yet.
        history: the rows of ``metrics.jsonl``.
        say: shows a line to the user.
        patience_s: how long ``close`` waits for what has not been sent, in seconds.
        room: how many rows may wait; further ones are not sent.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Target], Service],
        target: Target,
        *,
        history: Callable[[], Iterable[Mapping[str, Any]]],
        say: Callable[[str], None],
        patience_s: float = 30.0,
        room: int = 1000,
    ) -> None:
        self._name, self._connect, self._target = name, connect, target
        self._history, self._say, self._patience_s = history, say, patience_s
        self._queue: queue.Queue[tuple[str, Callable[[Service], None]] | None] = queue.Queue(room)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._kept, self._reason = _Kept(), ""
        self._sending = ""  # the kind of the item that the thread is working on
        self._lost: Counter[str] = Counter()
        self._sent: tuple[int, Row] = (-1, {})

    def rewind(self, step: int | None) -> None:
        """Continue the service's run if it has all steps up to ``step`` and none after it, else replace it."""
        kept, last = self._read(), -1 if step is None else step
        if kept.complete and kept.id and kept.step <= last:
            self._kept, self._target = kept, replace(self._target, id=kept.id)
            self._sent = next(
                ((kept.step, row) for row in self._history() if row["step"] == kept.step), (kept.step, {})
            )
            return
        self._kept, self._target = _Kept(step=last), replace(self._target, id="", replaces=kept.id)
        if kept.id:
            why = "steps are logged again" if kept.step > last else "it lacks some steps"
            self._say(f"{self._name}: a new run, filled from metrics.jsonl, replaces {kept.id}, because {why}")

    def log(self, step: int, row: Row) -> None:
        """Hand over a row; returns at once.

        Raises:
            OSError: the run folder cannot be written.
        """
        with self._lock:
            self._kept.step, self._kept.complete = step, False
            self._write()
        self._hand_over("row", partial(self._send, step=step, row=row))

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over rollouts; returns at once."""
        self._hand_over("table", lambda service: service.log_rollouts(step, rows))

    def close(self) -> None:
        """Wait for what has not been sent, within the patience, and say what was not."""
        if self._thread is None:
            return
        until = time.monotonic() + self._patience_s
        with suppress(queue.Full):
            self._queue.put(None, timeout=self._patience_s)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            with suppress(queue.Empty):
                while waiting := self._queue.get_nowait():
                    self._lost[waiting[0]] += 1
            self._lost[self._sending] += bool(self._sending)
            self._reason = f"no answer within {self._patience_s:g} s"
            if not any(self._lost.values()):
                self._say(
                    f"{self._name}: {self._reason} while the run was being closed there; it may lack the last rows"
                )
        self._thread = None
        if lost := " and ".join(counted(count, kind) for kind, count in self._lost.items() if count):
            later = "; a resumed run sends the rows" if self._lost["row"] else ""
            self._say(f"{self._name}: {lost} not sent: {self._reason}{later}")

    def _hand_over(self, kind: str, item: Callable[[Service], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name=self._name)
            self._thread.start()
        try:
            self._queue.put_nowait((kind, item))
        except queue.Full:
            self._lose(kind, f"{self._queue.maxsize} rows were waiting")

    def _work(self) -> None:
        """Send one item after the other; the thread's work."""
        service: Service | None = None
        again = 0.0
        while (waiting := self._queue.get()) is not None:
            self._sending, item = waiting
            if service is None and time.monotonic() >= again:
                again = time.monotonic() + _AGAIN_S
                service = self._opened()
            if service is None:
                self._lose(self._sending, self._reason)
            else:
                self._attempt(self._sending, item, service)
            self._sending = ""
            if self._queue.empty():
                self._note()
        if service:
            self._attempt("", lambda one: one.close(), service)
            self._note()

    def _attempt(self, kind: str, item: Callable[[Service], None], service: Service) -> None:
        try:
            item(service)
        except Exception as error:  # noqa: BLE001 - the library's own, or the network's
            self._lose(kind, _told(error))

    def _opened(self) -> Service | None:
        """The service's run, given whatever was logged so far that it lacks; None if it cannot be reached."""
        try:
            service = self._connect(self._target)
            with self._lock:
                self._kept.id = service.id
                self._write()
        except Exception as error:  # noqa: BLE001
            self._lose("", _told(error))
            return None
        if service.about:
            self._say(f"{self._name}: {service.about}")
        self._lost["row"] = 0
        for row in self._history():
            rest = {name: value for name, value in row.items() if name != "step"}
            self._attempt("row", partial(self._send, step=row["step"], row=rest), service)
        return service

    def _send(self, service: Service, step: int, row: Row) -> None:
        """Send what of a row has not been sent: the history may hold it, and a step may be logged twice."""
        before, known = self._sent
        new = {name: value for name, value in row.items() if value is not None and (step > before or name not in known)}
        if step >= before and set(new) - {"time/at"}:
            service.log(step, new)
            self._sent = (step, {**(known if step == before else {}), **row})

    def _lose(self, kind: str, reason: str) -> None:
        """Count what is not sent; the first reason is said at once."""
        if not self._reason:
            self._say(f"{self._name}: {reason}; the run goes on")
        self._reason = reason
        self._lost[kind] += bool(kind)

    def _note(self) -> None:
        """Record that the service has everything; a failure to do so means that it is filled again."""
        with self._lock, suppress(OSError):
            self._kept.complete = not self._lost["row"]
            self._write()

    @property
    def _file(self) -> Path:
        return self._target.folder / "run.json"

    def _read(self) -> _Kept:
        try:
            return _Kept(**json.loads(self._file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return _Kept()

    def _write(self) -> None:
        self._target.folder.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self._kept)) + "\n", encoding="utf-8")
        draft.replace(self._file)


def _told(error: Exception) -> str:
    """An exception in one short line."""
    return f"{type(error).__name__}: {visible(' '.join(str(error).split()))[:200]}"
