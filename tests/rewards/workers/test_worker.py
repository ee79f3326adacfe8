"""One worker: deadlines that hold whatever a call does, and replies that are plain data."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from processes import gone, living, until

from edge_grpo.rewards.workers.calls import Ending, packed
from edge_grpo.rewards.workers.template import Template
from edge_grpo.rewards.workers.worker import GRACE_S, StartError, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker(1024)
    yield started
    started.close()


def deaf(seconds: float) -> None:
    """What a user's reward may do, directly or through a library: take over the alarm."""
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
    assert worker.exit_code == -signal.SIGALRM
    assert not worker.lives


def test_the_parent_ends_a_call_that_took_the_timer_away(worker: Worker) -> None:
    worker.call(packed(deaf, (0.0,)), 30.0)  # so that importing this module is not part of the deadline
    outcome = worker.call(packed(deaf, (60.0,)), 0.3)
    assert outcome.ending is Ending.LATE
    assert 0.3 + GRACE_S <= outcome.seconds < 10.0
    assert worker.exit_code == -signal.SIGKILL


def test_a_worker_outlives_its_template_and_can_still_be_killed() -> None:
    template = Template()
    worker, doomed, idle = (Worker(1024, template) for _ in range(3))
    worker.call(packed(deaf, (0.0,)), 30.0)
    assert template.pid is not None
    os.kill(template.pid, signal.SIGKILL)
    outcome = worker.call(packed(deaf, (60.0,)), 0.3)
    assert outcome.ending is Ending.LATE
    assert 0.3 + GRACE_S <= outcome.seconds < 10.0
    assert not worker.lives
    outcome = doomed.call(packed(os._exit, (1,)), 30.0)
    assert (outcome.ending, outcome.note) == (Ending.KILLED, "the process died (exit code unknown)")
    assert idle.call(packed(pow, (2, 3)), 30.0).value == 8
    for one in (worker, doomed, idle):
        one.close()
        until(lambda pid=one.pid: not living(pid))
    template.close()


def test_a_changed_alarm_does_not_last(worker: Worker) -> None:
    assert worker.call(packed(deaf, (0.0,)), 5.0).ending is Ending.DONE
    worker.call(packed(pow, (9, 9**9)), 0.3)
    assert worker.exit_code == -signal.SIGALRM


@pytest.mark.parametrize("code", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 14)", "os.abort()"])
def test_a_death_before_the_deadline_is_a_crash(worker: Worker, code: str) -> None:
    outcome = worker.call(packed(exec, (f"import os; {code}",)), 5.0)
    assert outcome.ending is (Ending.KILLED if "9" in code else Ending.CRASHED)
    assert "died" in outcome.note


def test_a_stopped_process_is_late(worker: Worker) -> None:
    outcome = worker.call(packed(os.kill, (worker.pid, signal.SIGSTOP)), 0.3)
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
    assert worker.exit_code is None
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: worker.exit_code == -signal.SIGKILL)
    assert not worker.lives
    assert gone(worker.pid)


def test_killing_reaps_and_may_be_repeated(worker: Worker) -> None:
    worker.kill()
    assert worker.exit_code == -signal.SIGKILL
    assert gone(worker.pid)
    worker.kill()


def test_it_imports_what_its_parent_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.argv", ["program", "word"])
    worker = Worker(1024)
    assert worker.call(packed(eval, ("__import__('only_here').VALUE",)), 30.0).value == 7
    assert worker.call(packed(eval, ("__import__('sys').argv",)), 30.0).value == ["program", "word"]
    worker.close()


def test_it_holds_nothing_but_its_connection(worker: Worker) -> None:
    """Another worker's connections would hide that worker's death; the control socket, the parent's."""
    others = [Worker(1024) for _ in range(2)]
    for one in (worker, *others):
        assert one.call(packed(_held, ()), 30.0).value == 1
    for one in others:
        one.close()


def _held() -> int:
    """Sockets and pipes of this process, standard streams left out."""
    found = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found += fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "pipe:"))
        except FileNotFoundError:  # the listing's own
            continue
    return found


class Unwilling(Template):
    """Starts nothing and closes the connections."""

    def fork(self, calls: Connection, reports: Connection) -> None:
        pass


def test_a_worker_that_cannot_start() -> None:
    with pytest.raises(StartError, match="ended before it was ready"):
        Worker(1024, Unwilling())
