"""Commands in parallel: all end, their time is recorded, a failure is reported, a signal leaves none running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gp
import pytest
from gp.side_by_side import run_side_by_side

from edge_grpo.base import interrupt

PATHS = [str(Path(gp.__file__).parents[1]), str(Path(interrupt.__file__).parents[2])]


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


def test_commands_run_at_the_same_time_on_one_thread_each(tmp_path: Path) -> None:
    program = """
import os, pathlib, time
pathlib.Path({own!r}).write_text(os.environ["OMP_NUM_THREADS"])
while not pathlib.Path({other!r}).exists():
    time.sleep(0.01)
"""
    one, two = str(tmp_path / "1"), str(tmp_path / "2")
    for _ in range(2):
        commands = [python(program.format(own=a, other=b)) for a, b in ((one, two), (two, one))]
        run_side_by_side(commands, tmp_path / "seconds.txt")
    assert [Path(path).read_text() for path in (one, two)] == ["1", "1"]
    clock = (tmp_path / "seconds.txt").read_text().splitlines()
    assert len(clock) == 2
    assert all(float(line) > 0 for line in clock)


def test_a_failure_names_the_command_and_all_exit_codes(tmp_path: Path) -> None:
    commands = [python("pass"), [*python("import sys; sys.exit(3)"), "--out", "x"]]
    with pytest.raises(SystemExit, match=r"^python\S* -S -c import sys; .* --out x: exit codes \[0, 3\]$"):
        run_side_by_side(commands, tmp_path / "seconds.txt")


def test_a_signal_ends_all_commands_and_counts_their_time(tmp_path: Path) -> None:
    clock, pids = tmp_path / "seconds.txt", tmp_path / "pids"
    sleeper = f"import os, time; print(os.getpid(), file=open({str(pids)!r}, 'a'), flush=True); time.sleep(60)"
    program = f"""
import sys
sys.path[:0] = {PATHS!r}
from pathlib import Path
from edge_grpo.base.interrupt import terminable
from gp.side_by_side import run_side_by_side
with terminable():
    run_side_by_side([{python(sleeper)!r}] * 2, Path({str(clock)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (pids.exists() and len(pids.read_text().split()) == 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert len(clock.read_text().splitlines()) == 1
