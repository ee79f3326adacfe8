"""Seconds by phase: none counted twice, none lost to an exception."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_grpo.base.stopwatch import Stopwatch


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_phase_inside_another_belongs_to_the_outer_one() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.phase("correct"):
        clock.now += 1
        with watch.phase("grade"):
            clock.now += 2
        clock.now += 4
    with watch.phase("grade"):
        clock.now += 8
    assert watch.take("correct", "grade", "sample") == {"correct": 7.0, "grade": 8.0, "sample": 0.0}
    assert watch.take("correct") == {"correct": 0.0}, "taken once"


def test_a_phase_that_raises_is_counted_and_ends() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(ValueError, match="no"), watch.phase("sample"):
        clock.now += 3
        raise ValueError("no")
    with watch.phase("grade"):
        clock.now += 5
    assert watch.take("sample", "grade") == {"sample": 3.0, "grade": 5.0}


def test_every_phase_is_marked_even_inside_another_and_when_it_raises() -> None:
    marks: list[str] = []

    @contextmanager
    def span(name: str) -> Iterator[None]:
        marks.append(name)
        try:
            yield
        finally:
            marks.append(f"end of {name}")

    watch = Stopwatch(Clock(), span)
    with pytest.raises(ValueError, match="no"), watch.phase("correct"):
        with watch.phase("sample"):
            pass
        raise ValueError("no")
    assert marks == ["correct", "sample", "end of sample", "end of correct"]
