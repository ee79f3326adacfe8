"""What is decided by text, what is remembered, and what needs a worker."""

import threading
import time
from collections.abc import Iterator

import pytest

from edge_grpo.rewards.answers.comparer import MAX_REMEMBERED, Comparer, How
from edge_grpo.rewards.workers.pool import Ending, GraderPool


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=2, memory_mb=1024) as shared:
        yield shared


def hows(comparer: Comparer, *rows: tuple[str, tuple[str, ...]]) -> list[tuple[bool, str]]:
    return [(one.outcome.value, one.how.value) for one in comparer.compare(rows)]


def test_each_row_reports_how_it_was_decided(pool: GraderPool) -> None:
    comparer = Comparer(pool, timeout_s=5.0)
    rows = [("7", ("7",)), ("8", ("7", "9")), (r"\frac{2}{4}", ("0.5",)), ("x+1", ("1+x",)), ("x+1", ("1+x",))]
    assert hows(comparer, *rows) == [
        (True, "text"),
        (False, "text"),
        (True, "text"),
        (True, "worker"),
        (True, "memory"),
    ]
    assert hows(comparer, rows[3], ("x+1", ("2+x",))) == [(True, "memory"), (False, "worker")]
    assert comparer.counts == {How.TEXT: 3, How.WORKER: 2, How.MEMORY: 2}
    assert comparer.compare([]) == []


def test_any_reference_counts_and_cheap_comparisons_come_first(pool: GraderPool) -> None:
    comparer = Comparer(pool, timeout_s=30.0)
    hanging = r"\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx"
    began = time.perf_counter()
    (one,) = comparer.compare([("k = 2x+1", (hanging, "2x+1"))])
    assert one.outcome.value
    assert time.perf_counter() - began < 30.0


def test_the_references_of_a_row_share_one_deadline(pool: GraderPool) -> None:
    (one,) = Comparer(pool, timeout_s=0.5, same=_slow).compare([("a", ("0.3",) * 5)])
    assert one.outcome.ending is Ending.LATE
    assert 0.5 <= one.outcome.seconds < 2.5


def _slow(answer: str, golds: tuple[str, ...]) -> bool:
    for gold in golds:
        time.sleep(float(gold))
    return False


def test_only_results_are_remembered(pool: GraderPool) -> None:
    row = ("a", ("9",))
    late = Comparer(pool, timeout_s=0.2, same=_slow)
    assert [one.outcome.ending for one in late.compare([row, row])] == [Ending.LATE] * 2
    assert hows(late, row) != [(False, "memory")]
    raising = Comparer(pool, timeout_s=5.0, same=pow)
    assert raising.compare([row])[0].outcome.ending is Ending.RAISED
    assert raising.compare([row])[0].outcome.ending is Ending.RAISED
    comparer = Comparer(pool, timeout_s=5.0)
    assert hows(comparer, row) == [(False, "worker")]
    assert hows(comparer, row) == [(False, "memory")]


def test_the_memory_is_bounded(pool: GraderPool) -> None:
    comparer = Comparer(pool, timeout_s=5.0, remembered=2)
    one, two, three = (("x", (name,)) for name in "abc")
    comparer.compare([one, two])
    assert hows(comparer, one)[0][1] == "memory"  # now two is the least recently used
    comparer.compare([three])
    assert [how for _, how in hows(comparer, one, three, two)] == ["memory", "memory", "worker"]
    long = ("x" * MAX_REMEMBERED, ("y",))
    assert [hows(comparer, long)[0][1] for _ in range(2)] == ["worker", "worker"]


def test_threads_can_share_a_comparer(pool: GraderPool) -> None:
    comparer = Comparer(pool, timeout_s=5.0)
    rows = [(f"{n}+x", (f"x+{n}",)) for n in range(10)]
    found: list[list[tuple[bool, str]]] = []
    threads = [threading.Thread(target=lambda: found.append(hows(comparer, *rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [all(right for right, _ in one) for one in found] == [True] * 4
    assert sum(comparer.counts.values()) == 40
