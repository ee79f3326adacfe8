"""Where the time of a run goes: seconds by phase, and a trace of two steps with the operators that take most of it."""

import os
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from edge_grpo.base.text import counted
from edge_grpo.trackers.console import PlainDisplay

__all__ = ["PHASES", "Event", "Operator", "Profile", "operators", "seconds_by_phase"]

PHASES: Final = ("sample", "grade", "correct", "score", "update", "eval", "write", "other")
"""What a run spends its time on; ``other`` is the rest of a step."""

_IN_STEP = PHASES[:5]
_STEPS: Final = 2
_MOST_S: Final = 30.0  # filled with tiny operators: 2 million of them, 4 GB of memory and a trace of 40 MB
_LISTED: Final = 10
_WIDTH: Final = 36


class Event(NamedTuple):
    """An interval of a trace, in nanoseconds.

    ``id`` is the operator's number. Work on a device (``on_device``) has that of the operator that launched it.
    ``is_range`` marks named ranges, such as phases, which are not operators.
    """

    start: int
    end: int
    name: str
    thread: int = 0
    id: int = 0
    on_device: bool = False
    is_range: bool = False


class Operator(NamedTuple):
    """What an operator took within a phase: its calls, and seconds without those of the operators that it called."""

    phase: str
    name: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class _Traced:
    """What is left of a trace once it is written."""

    steps: tuple[int, ...]
    seconds: float
    operators: Sequence[Operator]
    on_device: bool
    note: str


class Profile:
    """A tracker that traces two steps of a run with torch.profiler, and shows at its end where the time went.

    The first step warms up. The trace goes into ``profile/trace.json.gz`` of the run folder; one from an earlier start
    is replaced. Training computes the same numbers: ``train(config, trackers=[Profile])``.

    Args:
        folder: the run's.
        say: shows a line.
        most_s: seconds that are traced at most, and so a bound on memory and file; slower steps are not traced.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        folder: Path,
        *,
        say: Callable[[str], None] | None = None,
        most_s: float = _MOST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = folder / "profile" / "trace.json.gz"
        self._say, self._most_s, self._clock = say or PlainDisplay().say, most_s, clock
        self._recorder: profile | None = None
        self._traced: _Traced | None = None
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._num_steps = 0
        self._open: list[int] = []  # the steps in the trace that is being recorded
        self._began = self._own_s = self._slowest_s = 0.0
        self._until = 0

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Add up the step's seconds, and begin or end the trace."""
        began = self._clock()
        spent = seconds_by_phase(row)
        spent["write"] = max(0.0, spent["write"] - self._own_s)  # that of this tracker is the profile's, not the run's
        self._own_s = 0.0
        for name in PHASES:
            self._seconds[name] += spent[name]
        if row.get("time/step_s") is not None:
            self._num_steps += 1
            self._advance(step, sum(spent.values()))
        self._own_s = self._clock() - began

    def rewind(self, step: int | None) -> None:
        """Nothing to do: the steps of earlier starts are not shown."""

    def close(self) -> None:
        """Write a trace that is still open, and show where the time went."""
        if self._recorder is not None:
            self._write() if self._open else self._recorder.stop()
            self._recorder = None
        for line in self._report():
            self._say(line)

    def _advance(self, step: int, seconds: float) -> None:
        if self._recorder is not None:
            self._open.append(step)
            self._until = time.time_ns()
            room = self._most_s - (self._clock() - self._began)
            if len(self._open) == _STEPS or seconds > room:
                self._write()
        elif self._traced is None:
            self._slowest_s = seconds
            if seconds <= self._most_s:
                self._record()

    def _record(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports to stderr that it starts and stops
        devices = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._recorder = profile(activities=[ProfilerActivity.CPU, *devices])
        self._began = self._clock()
        self._recorder.start()

    def _write(self) -> None:
        assert self._recorder is not None, "recording"
        recorder, self._recorder = self._recorder, None
        recorder.stop()
        events = [event for event in _events(recorder) if event.start < self._until]
        self._traced = _Traced(
            steps=tuple(self._open),
            seconds=(self._until - min(event.start for event in events)) / 1e9 if events else 0.0,
            operators=operators(events),
            on_device=any(event.on_device for event in events),
            note=self._export(recorder),
        )

    def _export(self, recorder: profile) -> str:
        """Write the trace, whole or not at all, and say where it is; a full disk costs the trace and not the run."""
        draft = self.file.with_name(".trace.json.gz")
        try:
            self.file.parent.mkdir(exist_ok=True)
            recorder.export_chrome_trace(str(draft))
            draft.replace(self.file)
        except (OSError, RuntimeError) as error:
            return f"trace: not written ({error})"
        size = self.file.stat().st_size / 2**20
        return f"trace: {self.file} ({size:.1f} MB); open it in https://ui.perfetto.dev or chrome://tracing"

    def _report(self) -> Iterator[str]:
        if total := sum(self._seconds.values()):
            yield f"where the time of {counted(self._num_steps, 'step')} went:"
            yield f"  {'phase':<8}{'seconds':>10}{'share':>9}"
            for name in PHASES:
                yield f"  {name:<8}{self._seconds[name]:>10.2f}{self._seconds[name] / total:>9.1%}"
            yield f"  {'total':<8}{total:>10.2f}{1:>9.1%}"
        if traced := self._traced:
            which = f"step{'s' * (len(traced.steps) > 1)} {' and '.join(map(str, traced.steps))}"
            where = "GPU" if traced.on_device else "CPU"
            yield f"operators of {which} ({traced.seconds:.2f} s) by their own {where} time:"
            yield f"  {'phase':<8}{'operator':<{_WIDTH}}{'calls':>9}{'seconds':>10}{'share':>9}"
            for phase, name, calls, seconds in traced.operators[:_LISTED]:
                part = seconds / traced.seconds if traced.seconds else 0.0
                yield f"  {phase:<8}{_cut(name):<{_WIDTH}}{calls:>9}{seconds:>10.2f}{part:>9.1%}"
            idle = max(0.0, traced.seconds - sum(each.seconds for each in traced.operators))
            none = "none: GPU idle" if traced.on_device else "none: Python, or waiting"
            yield f"  {none:<{_WIDTH + 17}}{idle:>10.2f}{idle / traced.seconds if traced.seconds else 0.0:>9.1%}"
            yield traced.note
        elif self._slowest_s > self._most_s:
            yield (
                f"no trace: a step took {self._slowest_s:.0f} s, and at most {self._most_s:.0f} s are traced; lower "
                "rollout.max_new_tokens or rollout.prompts_per_step for a profile"
            )
        else:
            yield "no trace: the first step warms up, and no later one was finished; take at least 2 steps"


def seconds_by_phase(row: Mapping[str, float | None]) -> dict[str, float]:
    """The seconds of each of :data:`PHASES` in a row of metrics; they add up to step, evaluation and writing.

    Example:
        >>> row = {"time/step_s": 5.0, "time/sample_s": 3.0, "time/update_s": 1.5, "time/write_s": 0.5}
        >>> {name: seconds for name, seconds in seconds_by_phase(row).items() if seconds}
        {'sample': 3.0, 'update': 1.5, 'write': 0.5, 'other': 0.5}
    """
    spent = {name: row.get(f"time/{name}_s") or 0.0 for name in PHASES[:-1]}
    inside = sum(spent[name] for name in _IN_STEP)
    return {**spent, "other": max(0.0, (row.get("time/step_s") or 0.0) - inside)}


def operators(events: Sequence[Event]) -> list[Operator]:
    """The operators of a trace, by phase, those that took most time of their own first.

    An operator belongs to the outermost phase in which it started. If anything ran on a device, only the time there
    counts, as that of the operator that launched it.
    """
    phases = _outermost(events)
    calls: Counter[tuple[str, str]] = Counter()
    on_cpu: Counter[tuple[str, str]] = Counter()
    on_device: Counter[tuple[str, str]] = Counter()
    launchers: dict[int, tuple[str, str]] = {}
    for event, own in _self_times(event for event in events if not event.on_device):
        if not event.is_range:
            key = launchers[event.id] = (_phase_at(event.start, phases), event.name)
            calls[key] += 1
            on_cpu[key] += own
    for event in events:
        if event.on_device and event.id in launchers:
            on_device[launchers[event.id]] += event.end - event.start
    found = on_device or on_cpu
    return [Operator(*key, calls[key], found[key] / 1e9) for key in nlargest(len(found), found, found.__getitem__)]


def _outermost(events: Iterable[Event]) -> list[Event]:
    """The phases that are not inside another one, in the order of time."""
    kept: list[Event] = []
    for event in sorted(
        (each for each in events if each.is_range and each.name in PHASES), key=lambda each: each.start
    ):
        if not kept or event.start >= kept[-1].end:
            kept.append(event)
    return kept


def _phase_at(moment: int, phases: Sequence[Event]) -> str:
    place = bisect_right(phases, moment, key=lambda phase: phase.start)
    return phases[place - 1].name if place and moment < phases[place - 1].end else "other"


def _self_times(events: Iterable[Event]) -> Iterator[tuple[Event, int]]:
    """Each event with its nanoseconds outside the events that it contains."""
    stack: list[tuple[Event, int]] = []  # open events, with the nanoseconds of what they contain

    def closed() -> tuple[Event, int]:
        event, inner = stack.pop()
        return event, max(0, event.end - event.start - inner)

    for event in sorted(events, key=lambda each: (each.thread, each.start, -each.end)):
        while stack and (stack[-1][0].thread != event.thread or stack[-1][0].end <= event.start):
            yield closed()
        if stack:
            stack[-1] = (stack[-1][0], stack[-1][1] + event.end - event.start)
        stack.append((event, 0))
    while stack:
        yield closed()


def _events(recorder: profile) -> Iterator[Event]:
    """The intervals that were recorded; those of asynchronous work on the CPU, which overlap others, are left out."""
    results: Any = recorder.profiler and recorder.profiler.kineto_results
    for event in results.events() if results else ():
        on_device, is_range = event.device_type() != DeviceType.CPU, event.is_user_annotation()
        thread, launcher = event.start_thread_id(), event.linked_correlation_id()
        if on_device:
            wanted = launcher and not is_range  # ranges are drawn on the device once more
        else:
            wanted = not launcher and not event.is_async() and event.end_thread_id() == thread  # else a call of CUDA's
        if wanted:
            number = launcher or event.correlation_id()
            yield Event(event.start_ns(), event.end_ns(), event.name(), thread, number, on_device, is_range)


def _cut(name: str) -> str:
    """A name with its middle left out if it is too long: variants differ at the end."""
    half = (_WIDTH - 4) // 2
    return name if len(name) < _WIDTH else f"{name[:half]}...{name[-half:]}"
