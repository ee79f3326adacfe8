"""``--processes N``: the launcher, with stub commands in place of training."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from processes import gone, living, until

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.job import Meeting
from edge_grpo.base.ranks import RENDEZVOUS
from edge_grpo.cli.launch import LOST, follow_launcher, launch, launched

Start = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[bytes]"]
MEETING_OF = f"Path(os.environ['{RENDEZVOUS}']).parent"
LASTS = "time.sleep(60)"
READY = "(here / f'ready {os.getpid()}').touch();"
STUBBORN = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY} {LASTS}"


def starting(*programs: str, pids: list[int] | None = None) -> Start:
    """Start one of these programs as each rank."""

    def start(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        program = f"import os, signal, sys, time; from pathlib import Path; here = {MEETING_OF}\n"
        program += programs[int(environment["RANK"])]
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
        if pids is not None:
            pids.append(process.pid)
        return process

    return start


def run(*programs: str, grace_s: float = 0.2, pids: list[int] | None = None) -> int:
    return launch(len(programs), ["train"], start=starting(*programs, pids=pids), grace_s=grace_s)


def when_ready(pids: list[int], *signals: int) -> threading.Thread:
    """Send signals to this process once two ranks are ready for them."""

    def send() -> None:
        until(lambda: len(pids) == 2)
        until(lambda: len(list(Path(environment_of(pids[0])[RENDEZVOUS]).parent.glob("ready*"))) == 2)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def environment_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_a_job_that_goes_well_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("assert os.environ['WORLD_SIZE'] == '2'", "assert os.environ['LOCAL_RANK'] == '1'") == 0
    assert capfd.readouterr() == ("", "")


def test_the_exit_code_is_that_of_the_rank_that_failed_and_spoke(capfd: pytest.CaptureFixture[str]) -> None:
    code = run(f"time.sleep(0.3); sys.exit({LOST})", "print('edge-grpo: rank 1: no', file=sys.stderr); sys.exit(2)")
    assert (code, capfd.readouterr().err) == (2, "edge-grpo: rank 1: no\n")


def test_a_killed_rank_is_named_with_the_command_that_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    pids: list[int] = []
    names_run = f"(here / 'run').write_text({str(tmp_path)!r}); "
    assert run(names_run + LASTS, f"{names_run} os.kill(os.getpid(), 9)", pids=pids) == 2
    assert all(map(gone, pids))
    assert capfd.readouterr().err == (
        "edge-grpo: rank 1 of 2 was killed by SIGKILL (out of memory, unless you sent it), and the others were "
        f"stopped; resume with: edge-grpo train --resume {tmp_path} --processes 2\n"
    )


def test_a_rank_killed_before_there_is_a_run_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("os.kill(os.getpid(), signal.SIGSEGV)", LASTS) == 2
    assert capfd.readouterr().err == (
        "edge-grpo: rank 0 of 2 was killed by SIGSEGV, and the others were stopped; nothing was saved yet; "
        "start it again\n"
    )


def test_a_rank_that_keeps_the_others_waiting_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    pids: list[int] = []
    assert run(f"while not list(here.glob('ready*')): pass\nsys.exit({LOST})", STUBBORN) == 2
    assert all(map(gone, pids))
    assert capfd.readouterr().err.startswith(
        "edge-grpo: rank 1 of 2 kept the others waiting too long (distributed.timeout_s); "
    )


def test_ranks_that_all_lost_contact_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(f"sys.exit({LOST})", f"sys.exit({LOST})") == 2
    assert capfd.readouterr().err.startswith("edge-grpo: the processes lost contact with each other; ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_every_rank_and_its_number_is_the_exit_code(
    number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """The ranks have no handler yet: the system ends them, and nobody else says so."""
    pids: list[int] = []
    plain = f"signal.signal({number}, signal.SIG_DFL); {READY} {LASTS}"
    sending = when_ready(pids, number)
    assert run(plain, plain, pids=pids) == code
    sending.join()
    assert capfd.readouterr().err == "edge-grpo: stopped\n"


def test_a_second_signal_ends_ranks_that_do_not_react(capfd: pytest.CaptureFixture[str]) -> None:
    pids: list[int] = []
    sending = when_ready(pids, signal.SIGTERM, signal.SIGTERM)
    assert run(STUBBORN, STUBBORN, pids=pids) == 143
    sending.join()
    assert all(map(gone, pids))
    assert capfd.readouterr().err == (
        "edge-grpo: ranks 0 and 1 of 2 had to be killed; nothing was saved yet; start it again\n"
    )


def test_handlers_are_restored_and_no_folder_is_left() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    places: list[str] = []

    def start(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        assert command[-3:] == ["edge_grpo", "train", "x"]
        places.append(environment[RENDEZVOUS])
        return subprocess.Popen([sys.executable, "-c", ""], env=environment)

    assert launch(2, ["train", "x"], start=start) == 0
    assert not Path(places[0]).parent.exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_only_a_process_that_is_no_rank_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launched(0), launched(2)) == (False, True)
    monkeypatch.setenv("EDGE_GRPO_LAUNCHER", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launched(2)


def test_processes_under_torchrun_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launched(0)
    with pytest.raises(ConfigError, match="torchrun has started the processes already"):
        launched(2)


def test_far_more_processes_than_cores_are_rejected() -> None:
    with pytest.raises(
        ConfigError, match=r"got 100000, and this machine has \d+ CPU cores?; wanted at most 8 per core"
    ):
        launched(100_000)


@pytest.mark.parametrize("polite", [True, False])
def test_a_process_ends_after_its_launcher_even_if_it_is_stuck(tmp_path: Path, *, polite: bool) -> None:
    """A child is left behind by its parent; the second child ignores SIGTERM."""
    note = tmp_path / "pid"
    ignored = "" if polite else "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    child = (
        f"import os, signal, time; {ignored} from edge_grpo.cli.launch import follow_launcher;"
        "follow_launcher(grace_s=0.2, look_s=0.01);"
        f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time;"
        "env = {**os.environ, 'RANK': '0', 'WORLD_SIZE': '1', 'EDGE_GRPO_LAUNCHER': str(os.getpid())};"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env=env); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as launcher:
        until(lambda: note.exists() and note.read_text())
        launcher.kill()
    until(lambda: not living(int(note.read_text())), timeout_s=10)


def test_a_process_that_works_alone_follows_nobody() -> None:
    before = threading.active_count()
    follow_launcher()
    assert threading.active_count() == before


def test_the_first_to_report_is_the_only_one(tmp_path: Path) -> None:
    place = Meeting(tmp_path)
    assert not place.has_report
    assert (place.claim(), place.claim()) == (True, False)
    assert place.has_report
    assert Meeting(tmp_path / "gone").claim()
