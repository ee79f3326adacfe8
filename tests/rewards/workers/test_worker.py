"""One worker: deadlines that hold against anything a call does, and replies that are data."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver

import pytest

from edge_grpo.rewards.workers import worker as workers
from edge_grpo.rewards.workers.worker import Ending, StartError, Worker, packed


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker(1024)
    yield started
    started.close()


def deaf(seconds: float) -> None:
    """What a user's reward may do, knowingly or by a library: take the alarm for itself."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    time.sleep(seconds)


def test_a_call_and_its_seconds(worker: Worker) -> None:
    assert worker.call(packed(pow, (2, 3)), 5.0).value == 8
    outcome = worker.call(packed(time.sleep, (0.2,)), 5.0)
    assert outcome.ending is Ending.DONE
    assert 0.2 <= outcome.seconds < 5.0
    assert worker.lives


def test_its_own_timer_ends_a_late_call(worker: Worker) -> None:
    outcome = worker.call(packed(pow, (9, 9**9)), 0.3)
    assert outcome.ending is Ending.LATE
    assert 0.3 <= outcome.seconds < 10.0
    assert worker._process.exitcode == -signal.SIGALRM
    assert not worker.lives


def test_the_parent_ends_a_call_that_took_the_timer_away(worker: Worker) -> None:
    worker.call(packed(deaf, (0.0,)), 30.0)  # so that importing this module is not part of the deadline
    outcome = worker.call(packed(deaf, (60.0,)), 0.3)
    assert outcome.ending is Ending.LATE
    assert 0.3 + workers.GRACE_S <= outcome.seconds < 10.0
    assert worker._process.exitcode == -signal.SIGKILL


def test_a_deaf_call_ends_where_the_server_was_killed_too(worker: Worker) -> None:
    worker.call(packed(deaf, (0.0,)), 30.0)
    server = vars(forkserver)["_forkserver"]._forkserver_pid
    os.kill(server, signal.SIGKILL)
    while worker._process.exitcode is None:
        time.sleep(0.01)
    outcome = worker.call(packed(deaf, (60.0,)), 0.3)
    assert outcome.ending is Ending.LATE
    assert 0.3 + workers.GRACE_S <= outcome.seconds < 10.0
    began = time.monotonic()
    while worker.lives and time.monotonic() - began < 10.0:  # until its end of the pipe is closed
        time.sleep(0.01)
    assert not worker.lives


def test_a_changed_alarm_does_not_last(worker: Worker) -> None:
    assert worker.call(packed(deaf, (0.0,)), 5.0).ending is Ending.DONE
    worker.call(packed(pow, (9, 9**9)), 0.3)
    assert worker._process.exitcode == -signal.SIGALRM


@pytest.mark.parametrize("code", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 14)", "os.abort()"])
def test_a_death_before_the_deadline_is_a_crash(worker: Worker, code: str) -> None:
    outcome = worker.call(packed(exec, (f"import os; {code}",)), 5.0)
    assert outcome.ending is (Ending.KILLED if "9" in code else Ending.CRASHED)
    assert "died" in outcome.note


def test_a_stopped_process_is_late(worker: Worker) -> None:
    outcome = worker.call(packed(os.kill, (worker._process.pid, signal.SIGSTOP)), 0.3)
    assert outcome.ending is Ending.LATE


def test_a_reply_is_json_and_never_an_object(worker: Worker) -> None:
    assert worker.call(packed(divmod, (7, 2)), 5.0).value == [3, 1]
    assert worker.call(packed(str.lower, ("\ud800",)), 5.0).value == "\ud800"
    outcome = worker.call(packed(object, ()), 5.0)
    assert (outcome.ending, outcome.value) == (Ending.RAISED, None)
    assert outcome.note == "TypeError: Object of type object is not JSON serializable"


def test_what_cannot_be_unpacked_there_is_raised(worker: Worker) -> None:
    outcome = worker.call(packed(pow, (2, 2)).replace(b"pow", b"pwo"), 5.0)
    assert outcome.ending is Ending.RAISED
    assert worker.lives


def test_an_idle_worker_that_was_killed_does_not_live(worker: Worker) -> None:
    assert worker.lives
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.join()
    assert not worker.lives


def test_a_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", os.path.join)  # raises there, about a connection
    with pytest.raises(StartError, match="ended before it was ready"):
        Worker(1024)
