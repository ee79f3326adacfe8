"""kill -9 at any moment: after resuming, the weights are the same bytes and no row is lost or duplicated."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.fixtures import Command, Straight, Words
from faults.moments import POINTS
from small_runs import rollouts, rows, weights

SEED = 20
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
AT_POINTS, BY_CLOCK = 15, 5
FAST = [("sampling", 90), ("backward", 8), ("checkpoint", 2)]
SLOW = [("grading", 5), ("metrics", 3), ("rollouts", 3)]


def real(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a separate process."""
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def go_on(command: Command, words: Words, folder: Path) -> None:
    """Resume a killed run, or restart one killed before it had a configuration."""
    started = (folder / "config.yaml").exists()
    answer = command(["train", "--resume", str(folder)] if started else words(folder))
    assert answer["code"] == 0, answer["out"]


def check_same(folder: Path, straight: Path) -> None:
    assert weights(folder) == weights(straight)
    assert rows(folder) == rows(straight)
    assert Counter(row["step"] for row in rows(folder)) == dict.fromkeys(range(5), 1)
    assert rollouts(folder) == rollouts(straight)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]  # no drafts are left
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == sorted(path.name for path in (straight / "checkpoints").iterdir())
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=folder / "checkpoints" / kept[-1],
        check=False,
    )
    assert done.returncode == 0


def kill_at(command: Command, words: Words, folder: Path, point: str, n: int) -> None:
    answer = command(words(folder), hits=[{"point": point, "n": n, "signals": [signal.SIGKILL]}])
    assert (answer["code"], answer["reached"]) == (-signal.SIGKILL, [point]), answer["out"]


@pytest.mark.parametrize(("point", "n"), FAST + [pytest.param(*each, marks=pytest.mark.slow) for each in SLOW])
def test_killed_in_a_phase_and_resumed(
    command: Command, words: Words, straight: Straight, tmp_path: Path, point: str, n: int
) -> None:
    kill_at(command, words, tmp_path / "run", point, n)
    go_on(command, words, tmp_path / "run")
    check_same(tmp_path / "run", straight[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_twenty_random_moments(
    command: Command, words: Words, straight: Straight, counts: dict[str, int], tmp_path: Path
) -> None:
    folder, _ = straight
    rng = random.Random(SEED)
    points = rng.sample(POINTS, AT_POINTS)
    for number, point in enumerate(points):
        n = rng.randint(1, counts[point])
        print(f"moment {number + 1}: {point}, call {n} of {counts[point]}")  # noqa: T201
        kill_at(command, words, tmp_path / str(number), point, n)
        go_on(command, words, tmp_path / str(number))
        check_same(tmp_path / str(number), folder)
    for number in range(AT_POINTS, AT_POINTS + BY_CLOCK):
        seconds = rng.uniform(0.05, 1.2)
        print(f"moment {number + 1}: {seconds:.3f} s after the start")  # noqa: T201
        answer = command(words(tmp_path / str(number)), after_s=seconds)
        assert answer["code"] == -signal.SIGKILL, answer["out"]
        go_on(command, words, tmp_path / str(number))
        check_same(tmp_path / str(number), folder)


@pytest.mark.slow
def test_killed_at_every_moment_that_leaves_something_half_written(
    command: Command, words: Words, straight: Straight, counts: dict[str, int], tmp_path: Path
) -> None:
    """The moments that the random ones missed, each at its last occurrence."""
    folder, _ = straight
    missed = set(POINTS) - set(random.Random(SEED).sample(POINTS, AT_POINTS))
    assert missed
    for point in sorted(missed):
        place = tmp_path / point.replace(" ", "-")
        kill_at(command, words, place, point, counts[point])
        go_on(command, words, place)
        check_same(place, folder)


@pytest.mark.slow
def test_killed_again_while_it_is_resumed(command: Command, words: Words, straight: Straight, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_at(command, words, run, "backward", 10)
    for point, n in (("cut back", 1), ("events", 2), ("loading", 1), ("checkpoint", 1), ("final swap", 1)):
        answer = command(["train", "--resume", str(run)], hits=[{"point": point, "n": n, "signals": [signal.SIGKILL]}])
        assert (answer["code"], answer["reached"]) == (-signal.SIGKILL, [point]), answer["out"]
    go_on(command, words, run)
    check_same(run, straight[0])


@pytest.mark.slow
def test_a_finished_run_that_is_extended_and_killed_gets_its_new_model(
    command: Command, words: Words, straight: Straight, tmp_path: Path
) -> None:
    """``final/`` of the shorter run must not be mistaken for that of the longer one."""
    constant = ["train.schedule=constant", "eval.every=0"]
    assert command(words(tmp_path / "whole", *constant))["code"] == 0
    run = tmp_path / "run"
    assert command(words(run, *constant, "train.steps=2"))["code"] == 0
    longer = ["train", "--resume", str(run), "train.steps=4"]
    for point in ("final", "deletion"):  # the model is half written; the old one is half deleted
        answer = command(longer, hits=[{"point": point, "n": 1, "signals": [signal.SIGKILL]}])
        assert (answer["code"], answer["reached"]) == (-signal.SIGKILL, [point]), answer["out"]
    answer = command(longer)
    assert "is finished" not in answer["out"]
    assert weights(run) == weights(tmp_path / "whole")
    answer = command(longer)
    assert "is finished (4 steps)" in answer["out"]


@pytest.mark.slow
def test_the_real_command_in_its_own_process(words: Words, straight: Straight, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [str(Path(sys.executable).parent / "edge-grpo"), *words(run)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 2/4"):
                process.kill()
    assert process.returncode == -signal.SIGKILL
    done = real([*command[:2], "--resume", str(run)])
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout or "step 1/4" in done.stdout
    check_same(run, straight[0])


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused_and_harms_nothing(
    words: Words, straight: Straight, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [str(Path(sys.executable).parent / "edge-grpo"), *words(run)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        try:
            refused = [real(other) for other in (command, [*command[:2], "--resume", str(run)])]
        finally:
            process.send_signal(signal.SIGCONT)
        process.stdout.read()
    for done in refused:
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "already holds a run" in done.stderr or "another process is training in this folder" in done.stderr
    assert process.returncode == 0
    assert json.loads((run / "final/progress.json").read_text())["step"] == 4
    check_same(run, straight[0])
