"""Workers die alone: deadlines, crashes, memory, Ctrl-C, scripts without a guard, and leaving without closing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_grpo.errors import EngineError
from edge_grpo.rewards.pool import Ending, GraderPool

NEVER = (9, 9**9)  # pow(9, 9**9): one big-integer computation in C, deaf to alarms and threads


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=2, memory_mb=1024) as shared:
        shared.run(pow, [(2, 2)], timeout_s=30.0)
        yield shared


def seconds_of(start: float) -> float:
    return time.perf_counter() - start


def test_a_late_call_costs_its_deadline_and_nothing_else(pool: GraderPool) -> None:
    start = time.perf_counter()
    late, *others = pool.run(pow, [NEVER, *((2, exponent) for exponent in range(50))], timeout_s=1.0)
    assert seconds_of(start) < 2.5
    assert late.ending is Ending.LATE
    assert [outcome.value for outcome in others] == [2**exponent for exponent in range(50)]


def test_waiting_in_the_queue_is_not_counted() -> None:
    with GraderPool(workers=1) as single:
        outcomes = single.run(time.sleep, [(0.4,)] * 4, timeout_s=1.0)
    assert [outcome.ending for outcome in outcomes] == [Ending.DONE] * 4


def test_starting_is_not_counted() -> None:
    with GraderPool(workers=1) as single:
        assert single.run(pow, [(2, 3)], timeout_s=0.05)[0].value == 8


def test_more_late_calls_than_workers(pool: GraderPool) -> None:
    outcomes = pool.run(pow, [NEVER, NEVER, NEVER, (2, 2)], timeout_s=0.4)
    assert [outcome.ending for outcome in outcomes] == [Ending.LATE] * 3 + [Ending.DONE]


def test_crashes_memory_and_exits(pool: GraderPool) -> None:
    assert pool.run(os._exit, [(3,)], 5.0)[0].ending in (Ending.CRASHED, Ending.LATE)
    assert pool.run(os.abort, [()], 5.0)[0].ending in (Ending.CRASHED, Ending.LATE)
    assert pool.run(bytearray, [(3 * 2**30,)], 5.0)[0].ending is Ending.CRASHED
    for code in (0, 1):
        assert pool.run(sys.exit, [(code,)], 5.0)[0].ending is Ending.RAISED
    assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4


def test_exceptions_and_what_cannot_be_sent(pool: GraderPool) -> None:
    (outcome,) = pool.run(pow, [("a", 2)], 5.0)
    assert outcome.ending is Ending.RAISED
    assert "TypeError" in outcome.note
    lock = open(os.devnull)  # noqa: SIM115
    with lock:
        assert pool.run(pow, [(lock, 2)], 5.0)[0].ending is Ending.RAISED
    assert pool.run(open, [(os.devnull,)], 5.0)[0].ending is Ending.RAISED
    assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4


def test_workers_know_no_torch_and_ignore_interrupts(pool: GraderPool) -> None:
    code = "'torch' in __import__('sys').modules or 'transformers' in __import__('sys').modules"
    assert pool.run(eval, [(code,)], 5.0)[0].value is False
    kill = "__import__('os').kill(__import__('os').getpid(), 2)"
    assert pool.run(eval, [(kill,), ("1",)], 5.0)[1].value == 1
    assert pool.run(eval, [(kill,)], 5.0)[0].ending is Ending.DONE


def test_a_worker_killed_while_idle_is_replaced(pool: GraderPool) -> None:
    for _ in range(2):
        pid = pool.run(os.getpid, [()], 5.0)[0].value
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4


def test_closing_ends_what_runs_and_the_pool_may_be_used_again() -> None:
    pool = GraderPool(workers=1)
    pid = pool.run(os.getpid, [()], 5.0)[0].value
    start = time.perf_counter()
    pool.close()
    pool.close()
    assert seconds_of(start) < 2.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4
    pool.close()


def test_workers_that_never_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_grpo.rewards.pool._prepare", os._exit)
    with GraderPool(workers=1, memory_mb=513) as broken, pytest.raises(EngineError, match="do not start"):
        broken.run(pow, [(2, 2)], 5.0)


def test_same_answers_compares_each_pair_once(pool: GraderPool) -> None:
    pairs = [("7", "7"), ("8", "7"), (r"\frac{2}{4}", "0.5"), (r"\frac{2}{4}", "0.5"), ("9**9**9**9", "x")]
    outcomes = pool.same_answers(pairs, timeout_s=5.0)
    assert [outcome.value for outcome in outcomes] == [True, False, True, True, False]


SCRIPT = """
import sys
print("main runs", flush=True)
from edge_grpo.rewards import GraderPool
pool = GraderPool(workers=2)
print(pool.run(pow, [(2, 5)], 5.0)[0].value, flush=True)
{rest}
"""


def start_script(folder: Path, rest: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(rest=rest))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, path], stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_a_script_needs_no_guard_and_may_leave_without_closing(tmp_path: Path) -> None:
    script = start_script(tmp_path, "")
    out, err = script.communicate(timeout=60)
    assert (out.split("\n"), err, script.returncode) == (["main runs", "32", ""], "", 0)


def living(group: int) -> list[str]:
    """Processes of a group that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("close", [True, False])
def test_interrupt_shows_one_traceback_and_leaves_no_process(tmp_path: Path, close: bool) -> None:
    run = "pool.run(pow, [(9, 9**9)] * 3, 600.0)"
    script = start_script(tmp_path, f"with pool:\n    {run}" if close else run)
    assert script.stdout is not None
    assert [script.stdout.readline() for _ in range(2)] == ["main runs\n", "32\n"]
    time.sleep(0.5)
    start = time.perf_counter()
    os.killpg(script.pid, signal.SIGINT)  # what Ctrl-C does: everyone in the group gets it
    _, err = script.communicate(timeout=60)
    assert seconds_of(start) < 10.0
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    deadline = time.perf_counter() + 10.0
    while living(script.pid) and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert not living(script.pid)


def test_killing_the_program_leaves_no_worker_for_long(tmp_path: Path) -> None:
    script = start_script(tmp_path, "print(pool.run(__import__('os').getpid, [()], 5.0)[0].value, flush=True)\ninput()")
    assert script.stdout is not None
    pid = int([script.stdout.readline() for _ in range(3)][-1])
    script.kill()
    script.communicate(timeout=60)
    deadline = time.perf_counter() + 10.0
    while Path(f"/proc/{pid}").exists() and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
