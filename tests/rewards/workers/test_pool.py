"""Workers die alone: deadlines, crashes, memory, Ctrl-C, scripts without a guard, and leaving without closing."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from processes import children, gone, living, members, until

from edge_grpo.base.errors import EngineError
from edge_grpo.rewards.workers.pool import ATTEMPTS, Ending, GraderPool
from edge_grpo.rewards.workers.template import Template

NEVER = (9, 9**9)  # pow(9, 9**9): one big-integer computation in C, immune to alarms and threads


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=2, memory_mb=1024) as shared:
        shared.run(pow, [(2, 2)], timeout_s=30.0)
        yield shared


def seconds_of(start: float) -> float:
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def mortal() -> Iterator[Template]:
    """A template that tests may kill."""
    template = Template()
    yield template
    template.close()


def kill(template: Template) -> None:
    assert template.pid is not None
    os.kill(template.pid, signal.SIGKILL)


def test_a_late_call_costs_its_deadline_and_nothing_else(pool: GraderPool) -> None:
    start = time.perf_counter()
    late, *others = pool.run(pow, [NEVER, *((2, exponent) for exponent in range(50))], timeout_s=1.0)
    assert seconds_of(start) < 10.0
    assert late.ending is Ending.LATE
    assert [outcome.value for outcome in others] == [2**exponent for exponent in range(50)]


def test_waiting_in_the_queue_is_not_counted() -> None:
    with GraderPool(workers=1) as single:
        outcomes = single.run(time.sleep, [(0.4,)] * 4, timeout_s=1.0)
    assert [outcome.ending for outcome in outcomes] == [Ending.DONE] * 4


def test_starting_is_not_counted(mortal: Template) -> None:
    mortal.close()  # the next start imports sympy, which takes longer than the deadline
    with GraderPool(workers=1, template=mortal) as single:
        began = time.perf_counter()
        (outcome,) = single.run(pow, [(2, 3)], timeout_s=0.3)
    assert outcome.value == 8
    assert outcome.seconds < 0.3 < seconds_of(began)


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
        until(lambda pid=pid: gone(pid))
        assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4


def test_closing_ends_what_runs_and_the_pool_may_be_used_again() -> None:
    pool = GraderPool(workers=1)
    pid = pool.run(os.getpid, [()], 5.0)[0].value
    start = time.perf_counter()
    pool.close()
    pool.close()
    assert seconds_of(start) < 10.0
    assert gone(pid)
    assert pool.run(pow, [(2, 2)], 5.0)[0].value == 4
    pool.close()


class Unwilling(Template):
    """Rejects the first few requests, then starts workers normally."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals
        self.refused = threading.Event()

    def fork(self, calls: Connection, reports: Connection) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            self.refused.set()
            raise BlockingIOError("no more processes")
        super().fork(calls, reports)


def test_workers_that_never_start_are_an_error() -> None:
    broken = GraderPool(workers=1, memory_mb=513, template=Unwilling(99), pauses_s=(0.0, 0.0))
    message = r"1 grading processes with 513 MiB .* fail to start .*\(BlockingIOError: no more processes\)"
    with broken, pytest.raises(EngineError, match=message):
        broken.run(pow, [(2, 2)], 5.0)


def test_a_failed_start_is_tried_again() -> None:
    template = Unwilling(2)
    with GraderPool(workers=1, template=template, pauses_s=(0.0, 0.0, 0.0)) as own:
        assert own.run(pow, [(2, 3)], 5.0)[0].value == 8
    template.close()


SCRIPT = """
import sys
import threading
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


BUSY = "pool.run(eval, [(\"(print('busy', flush=True), 9**9**9)\",)] * 2, 600.0)"


def started(script: subprocess.Popen[str]) -> None:
    """Wait until both workers are in a computation that only a kill ends."""
    assert script.stdout is not None
    assert [script.stdout.readline() for _ in range(4)] == ["main runs\n", "32\n", "busy\n", "busy\n"]


@pytest.mark.parametrize("close", [True, False])
def test_interrupt_shows_one_traceback_and_leaves_no_process(tmp_path: Path, close: bool) -> None:
    script = start_script(tmp_path, f"with pool:\n    {BUSY}" if close else BUSY)
    started(script)
    start = time.perf_counter()
    os.killpg(script.pid, signal.SIGINT)  # what Ctrl-C does: everyone in the group gets it
    _, err = script.communicate(timeout=60)
    assert seconds_of(start) < 10.0
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not members(script.pid)


def test_killing_the_program_leaves_no_process_for_long(tmp_path: Path) -> None:
    script = start_script(tmp_path, BUSY)
    started(script)
    assert len(members(script.pid)) == 4  # the program, its template, two workers
    script.kill()
    script.communicate(timeout=60)
    until(lambda: not members(script.pid))


def test_an_idle_worker_exits_with_its_program_even_without_a_template(tmp_path: Path) -> None:
    rest = "import os\nfrom edge_grpo.rewards.workers.template import SHARED\nfor pid in SHARED.pid, os.getpid():\n"
    script = start_script(tmp_path, f"{rest}    os.kill(pid, 9)")
    script.communicate(timeout=60)
    until(lambda: not members(script.pid))


def test_a_call_whose_workers_die_is_a_crash_within_one_deadline(pool: GraderPool) -> None:
    code = "import os, time; time.sleep(0.15); os._exit(1)"
    start = time.perf_counter()
    (short,) = pool.run(exec, [(code,)], 0.4)
    assert seconds_of(start) < 10.0
    assert short.ending is Ending.LATE  # the third attempt met the deadline that all of them share
    assert 0.4 <= short.seconds < 10.0
    (long,) = pool.run(exec, [(code,)], 5.0)
    assert (long.ending, long.note) == (Ending.CRASHED, "the process died (exit code 1)")
    assert long.seconds >= 3 * 0.15
    (killed,) = pool.run(exec, [("import os; os.kill(os.getpid(), 9)",)], 5.0)
    assert killed.ending is Ending.KILLED


def test_workers_killed_from_outside_change_no_outcome(mortal: Template) -> None:
    code = "(__import__('time').sleep({pause}), {number})[1]"
    calls = [(code.format(pause=0.02, number=number),) for number in range(100)]
    with GraderPool(workers=2, memory_mb=1024, template=mortal) as own:
        own.run(pow, [(2, 2)] * 2, 30.0)
        assert mortal.pid is not None
        template = mortal.pid
        stop = threading.Event()
        killed = []

        def keep_killing() -> None:
            while len(killed) < ATTEMPTS[Ending.KILLED] - 1 and not stop.wait(0.05):  # all may hit the same call
                for pid in children(template)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

        killer = threading.Thread(target=keep_killing)
        killer.start()
        outcomes = own.run(eval, calls, 30.0)
        stop.set()
        killer.join()
    assert [outcome.value for outcome in outcomes] == list(range(100))
    assert len(killed) > 5


def test_threads_use_one_pool_and_get_their_own_outcomes(pool: GraderPool) -> None:
    def squares(first: int) -> list[int]:
        calls = [(number, 2) for number in range(first, first + 30)]
        late, *done = pool.run(pow, [NEVER, *calls] if first == 0 else [(0, 1), *calls], 0.5)
        assert (late.ending is Ending.LATE) == (first == 0)
        return [outcome.value for outcome in done]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(squares, range(0, 600, 100)))
    assert found == [[number**2 for number in range(first, first + 30)] for first in range(0, 600, 100)]


def test_a_running_loop_may_call_it_directly_or_in_a_thread(pool: GraderPool) -> None:
    async def both() -> list[int]:
        direct = pool.run(pow, [(2, 3)], 5.0)
        others = await asyncio.gather(*(asyncio.to_thread(pool.run, pow, [(2, n)], 5.0) for n in range(4)))
        return [one.value for outcomes in (direct, *others) for one in outcomes]

    assert asyncio.run(both()) == [8, 1, 2, 4, 8]


def test_eight_hanging_calls_each_cost_their_deadline(pool: GraderPool) -> None:
    outcomes = pool.run(pow, [NEVER] * 8 + [(2, 2)] * 8, 0.3)
    assert [outcome.ending for outcome in outcomes] == [Ending.LATE] * 8 + [Ending.DONE] * 8
    assert all(0.3 <= outcome.seconds < 10.0 for outcome in outcomes[:8])


def test_closing_in_one_thread_ends_the_calls_of_another(tmp_path: Path) -> None:
    own = GraderPool(workers=1, memory_mb=1024)
    own.run(pow, [(2, 2)], 30.0)
    with ThreadPoolExecutor(1) as threads:
        code = f"import time; open({str(tmp_path / 'begun')!r}, 'w').close(); time.sleep(60)"
        other = threads.submit(own.run, exec, [(code,), (code,)], 60.0)
        until((tmp_path / "begun").exists)
        own.close()
        with pytest.raises(EngineError, match="were closed"):
            other.result(timeout=10.0)
    assert own.run(pow, [(2, 2)], 30.0)[0].value == 4
    own.close()


def test_a_killed_template_is_replaced_and_its_workers_are_kept(mortal: Template) -> None:
    with GraderPool(workers=1, memory_mb=1024, template=mortal) as own:
        pid = own.run(os.getpid, [()], 30.0)[0].value
        kill(mortal)
        assert [outcome.value for outcome in own.run(os.getpid, [()] * 3, 30.0)] == [pid] * 3
        late, done = own.run(pow, [NEVER, (2, 2)], 0.5)
        assert (late.ending, done.value) == (Ending.LATE, 4)
        until(lambda: not living(pid))
        kill(mortal)
        assert own.run(exec, [("import os; os._exit(1)",)], 30.0)[0].ending is Ending.CRASHED
        assert own.run(pow, [(2, 3)], 30.0)[0].value == 8


def test_a_template_killed_with_a_request_in_flight_is_replaced() -> None:
    class Doomed(Template):
        pids: tuple[int | None, ...] = ()

        def fork(self, calls: Connection, reports: Connection) -> None:
            super().fork(calls, reports)
            self.pids += (self.pid,)
            if len(self.pids) <= 2:
                kill(self)

    template = Doomed()
    with GraderPool(workers=1, memory_mb=1024, template=template, pauses_s=(0.0, 0.0, 0.0)) as own:
        assert own.run(pow, [(2, 3)], 5.0)[0].value == 8
    assert len(set(template.pids)) == 3
    template.close()


def test_closing_does_not_wait_for_the_next_start() -> None:
    template = Unwilling(99)
    own = GraderPool(workers=1, memory_mb=1024, template=template, pauses_s=(0.0, 3600.0))
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(own.run, pow, [(2, 2)], 5.0)
        assert template.refused.wait(30.0)
        began = time.perf_counter()
        own.close()
        assert seconds_of(began) < 30.0
        with pytest.raises(EngineError, match="were closed"):
            other.result(timeout=30.0)


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_setting_the_clock_changes_no_deadline(tmp_path: Path, jump_s: float) -> None:
    rest = f"""
import threading, time
from edge_grpo.rewards.workers.pool import Ending
true_time, began = time.time, time.monotonic()
threading.Timer(0.3, lambda: setattr(time, "time", lambda: true_time() + {jump_s})).start()
hanging, slow = pool.run(eval, [("9**9**9",), ("__import__('time').sleep(0.8)",)], 1.0)
print(hanging.ending, slow.ending, time.monotonic() - began < 30.0)
pool.close()"""
    out, err = start_script(tmp_path, rest).communicate(timeout=60)
    assert (out.splitlines()[2:], err) == (["late done True"], "")


def test_closing_at_any_moment_ends_cleanly() -> None:
    own = GraderPool(workers=2, memory_mb=1024)
    ends = []
    with ThreadPoolExecutor(2) as threads:
        for pause in range(12):
            runs = [threads.submit(own.run, os._exit if pause % 2 else pow, [(2,) * (2 - pause % 2)] * 20, 5.0)]
            runs += [threads.submit(own.run, pow, [(2, 2)] * 20, 5.0)]
            time.sleep(0.005 * pause)
            own.close()
            for one in runs:
                failure = one.exception(timeout=30.0)
                ends.append(len(one.result()) if failure is None else str(failure))
    own.close()
    assert set(ends) <= {20, "reward: the grading processes were closed while answers were being graded"}


FORK = """
import os, sys, time
child = os.fork()
if child == 0:
    print("child", pool.run(pow, [(2, 4)], 5.0)[0].value, flush=True)
    sys.exit(0)
print("status", os.waitpid(child, 0)[1], flush=True)
print("parent", pool.run(pow, [(2, 6)], 5.0)[0].value, flush=True)
"""


def test_a_forked_child_has_its_own_workers_and_leaves_its_parents_alone(tmp_path: Path) -> None:
    script = start_script(tmp_path, FORK)
    out, err = script.communicate(timeout=60)
    assert (out.split("\n")[2:], err, script.returncode) == (["child 16", "status 0", "parent 64", ""], "", 0)


def test_a_large_request_to_a_stopped_worker_is_late(pool: GraderPool) -> None:
    with GraderPool(workers=1) as single:
        os.kill(single.run(os.getpid, [()], 5.0)[0].value, signal.SIGSTOP)
        (outcome,) = single.run(len, [(b"x" * 3_000_000,)], timeout_s=0.5)
        assert outcome.ending is Ending.LATE
        assert outcome.seconds < 10.0
        assert single.run(len, [(b"x" * 3_000_000,)], timeout_s=5.0)[0].value == 3_000_000
