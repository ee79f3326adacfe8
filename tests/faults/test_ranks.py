"""Faults of one of two ranks: both do the same, in one line, and the run resumes to the same bytes."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faults.fixtures import Command, Pair, Words
from processes import until
from small_runs import rollouts, rows, weights

from edge_grpo.runs.durable import take_lock

KILL, STOP, TERM, INT = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT
LIMIT_S = 30


def hit(point: str, n: int, rank: int, *signals: int, **more: Any) -> dict[str, Any]:
    return {"point": point, "n": n, "rank": rank, "signals": list(signals), **more}


def lines(answer: dict[str, Any]) -> list[str]:
    """What the command said about its end; nothing else may follow, and nothing may be left behind."""
    assert "Traceback" not in answer["out"], answer["out"]
    assert not answer["left"]
    return [line for line in answer["out"].splitlines() if line.startswith("edge-grpo: ")]


def check_told(answer: dict[str, Any], *parts: str) -> None:
    """One line, exit code 2."""
    told = lines(answer)
    assert (answer["code"], len(told)) == (2, 1), answer["out"]
    assert answer["out"].strip().splitlines()[-1:] == told, answer["out"]
    for part in parts:
        assert part in told[0]


def check_resumes(command: Command, words: Words, run: Path, pair: Pair) -> None:
    """Two ranks end the run with the bytes of an uninterrupted one."""
    answer = command(["train", "--resume", str(run)] if (run / "config.yaml").exists() else words(run), ranks=2)
    assert answer["code"] == 0, answer["out"]
    assert weights(run) == weights(pair[0])
    assert rows(run) == rows(pair[0])
    assert rollouts(run) == rollouts(pair[0])
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]


# --- kill -9 ----------------------------------------------------------------------------------------------------------
def test_a_killed_rank_ends_the_job_which_resumes(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit("backward", 3, 1, KILL)])
    check_told(answer, "rank 1 of 2 was killed by SIGKILL", f"edge-grpo train --resume {run} --processes 2")
    assert answer["seconds"][1] < LIMIT_S
    check_resumes(command, words, run, pair)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rank_killed_at_ten_random_moments(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    """With -s it prints the table of docs/reliability.md."""
    rng = random.Random(5)
    known = {rank: [point for point, n in counts.items() if n] for rank, counts in pair[1].items()}
    moments = [("1", point) for point in ("slices", "sampling", "backward", "checksums", "optimizer")]
    moments += [("0", point) for point in rng.sample(known["0"], 5)]
    print("\n| moment | seconds until the job ended | line | same bytes after resuming |\n|---|---|---|---|")  # noqa: T201
    for number, (rank, point) in enumerate(moments):
        n, run = rng.randint(1, pair[1][rank][point]), tmp_path / str(number)
        answer = command(words(run), ranks=2, hits=[hit(point, n, int(rank), KILL)])
        assert answer["reached"] == [point]
        check_told(answer, f"rank {rank} of 2 was killed by SIGKILL")
        assert answer["seconds"][1] < LIMIT_S
        check_resumes(command, words, run, pair)
        told = lines(answer)[0].partition(" (")[0].removeprefix("edge-grpo: ")
        print(f"| {point} {n}, rank {rank} | {answer['seconds'][1]:.1f} | {told} ... | yes |")  # noqa: T201


@pytest.mark.slow
@pytest.mark.parametrize(("point", "n"), [("sampling", 80), ("scoring", 3)])
def test_a_rank_killed_while_it_waits_for_the_other(
    command: Command, words: Words, pair: Pair, tmp_path: Path, point: str, n: int
) -> None:
    """Rank 0 takes its time, so that rank 1 has done its share and waits in a gather or a pass."""
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit(point, n, 0, KILL, to=1, pause_s=0.4)])
    check_told(answer, "rank 1 of 2 was killed by SIGKILL")
    check_resumes(command, words, run, pair)


@pytest.mark.slow
def test_no_rank_outlives_its_launcher(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    for point, n in (("sampling", 80), ("optimizer", 2)):
        run = tmp_path / point
        answer = command(words(run), ranks=2, hits=[hit(point, n, 0, KILL, to="launcher")])
        assert (answer["code"], answer["left"]) == (-KILL, []), answer["out"]
        assert answer["seconds"][1] < LIMIT_S
        check_resumes(command, words, run, pair)


# --- signals ----------------------------------------------------------------------------------------------------------
def test_a_signal_to_one_rank_stops_all(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    """It comes in a forward pass of rank 1, which then has whole layers where rank 0 has slices."""
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit("sampling", 120, 1, TERM)])
    assert (answer["code"], lines(answer)) == (143, []), answer["out"]
    assert f"resume with: edge-grpo train --resume {run} --processes 2" in answer["out"]
    check_resumes(command, words, run, pair)


@pytest.mark.slow
@pytest.mark.parametrize("to", [0, 1, "launcher"])
@pytest.mark.parametrize(
    ("point", "n", "pause_s"),
    [("sampling", 80, 0.0), ("sampling", 200, 0.3), ("backward", 3, 0.0), ("optimizer", 2, 0.0), ("slices", 1, 0.0)],
)
def test_a_signal_to_one_rank_or_all_stops_all_together(
    command: Command, words: Words, pair: Pair, tmp_path: Path, to: int | str, point: str, n: int, pause_s: float
) -> None:
    run, number = tmp_path / "run", INT if n % 2 else TERM
    answer = command(words(run), ranks=2, hits=[hit(point, n, 1, number, to=to, pause_s=pause_s)])
    assert (answer["code"], lines(answer)) == (128 + number, []), answer["out"]
    assert "stopped before step" in answer["out"]
    check_resumes(command, words, run, pair)


@pytest.mark.slow
@pytest.mark.parametrize("to", [1, "launcher"])
def test_a_signal_while_loading_leaves_no_run(command: Command, words: Words, tmp_path: Path, to: int | str) -> None:
    answer = command(words(tmp_path / "run"), ranks=2, hits=[hit("loading", 1, 0, TERM, to=to)])
    assert (answer["code"], lines(answer)) == (143, ["edge-grpo: stopped"]), answer["out"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("point", "n"), [("optimizer", 2), ("slices", 1), ("sampling", 200)])
def test_a_second_signal_ends_all_at_once(
    command: Command, words: Words, pair: Pair, tmp_path: Path, point: str, n: int
) -> None:
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit(point, n, 0, TERM, INT, to="launcher", gap_s=0.05)])
    assert answer["code"] in (130, 143), answer["out"]
    assert len(lines(answer)) < 2, answer["out"]
    check_resumes(command, words, run, pair)


# --- what goes wrong on one rank --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rank", "point", "n"),
    [
        (1, "slices", 1),
        pytest.param(0, "metrics", 2, marks=pytest.mark.slow),
        pytest.param(0, "slices", 2, marks=pytest.mark.slow),
        pytest.param(0, "rollouts", 2, marks=pytest.mark.slow),
        pytest.param(0, "checkpoint", 1, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line(
    command: Command, words: Words, pair: Pair, tmp_path: Path, rank: int, point: str, n: int
) -> None:
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit(point, n, rank, error=errno.ENOSPC)])
    check_told(answer, str(run), os.strerror(errno.ENOSPC), f"--resume {run} --processes 2")
    check_resumes(command, words, run, pair)


@pytest.mark.slow
def test_a_checkpoint_that_one_rank_cannot_read_back(
    command: Command, words: Words, pair: Pair, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit("checksums", 1, 1, error=errno.EIO)])
    check_told(
        answer, "checkpoints/step_000002: could not be written (weights-00001-of-00002.safetensors cannot be read"
    )
    assert not list((run / "checkpoints").glob("step_*"))
    check_resumes(command, words, run, pair)


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    """While sampling, all learn of it and the steps before are saved; in an update, the job ends."""
    run = tmp_path / "sampling"
    answer = command(words(run), ranks=2, hits=[hit("sampling", 140, 1, memory=True)])
    check_told(answer, "out of memory while sampling", "resume with: ", "--processes 2")
    assert list((run / "checkpoints").glob("step_00000[13]"))  # not one of those written anyway
    run = tmp_path / "update"
    answer = command(words(run), ranks=2, hits=[hit("backward", 3, 1, memory=True)])
    check_told(answer, "rank 1: out of memory while updating the weights", "resume with")
    check_resumes(command, words, run, pair)


@pytest.mark.slow
def test_numbers_that_are_not_finite_on_one_rank(command: Command, words: Words, tmp_path: Path) -> None:
    """An update is skipped on all ranks; samples of NaN end the run."""
    run = tmp_path / "gradients"
    answer = command(words(run), ranks=2, hits=[hit("backward", 2, 1, nan=True)])
    assert (answer["code"], answer["reached"]) == (0, ["backward"]), answer["out"]
    assert sum(row.get("skipped_updates", 0) > 0 for row in rows(run)) == 1
    answer = command(words(tmp_path / "samples"), ranks=2, hits=[hit("sampling", 90, 1, nan=True)])
    check_told(answer, "not finite")


@pytest.mark.slow
def test_a_grader_that_dies_on_one_rank_is_replaced(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = command(words(run), ranks=2, hits=[hit("grading", 3, 1, KILL, to="worker"), hit("grading", 10**6, 0)])
    assert (answer["code"], set(answer["reached"])) == (0, {"grading"}), answer["out"]  # the new one counts anew
    assert weights(run) == weights(pair[0])


@pytest.mark.slow
def test_a_reward_that_fails_on_one_rank_ends_all(command: Command, words: Words, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\n\ndef reward(completions, problems):\n"
        "    if os.environ['RANK'] == '1':\n        raise ValueError('no key')\n    return [0.5] * len(completions)\n"
    )
    answer = command(words(tmp_path / "run", f"reward.function={reward}:reward"), ranks=2)
    check_told(answer, "rank 1: ", "no key")


@pytest.mark.slow
def test_a_model_that_one_rank_cannot_read(command: Command, words: Words, tmp_path: Path) -> None:
    hits = [hit("loading", n, 1, error=errno.EACCES) for n in range(1, 20)]
    answer = command(words(tmp_path / "run"), ranks=2, hits=hits)
    check_told(answer, "rank 1: ", "model.path")


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = command(words(run, "distributed.timeout_s=4"), ranks=2, hits=[hit("backward", 3, 1, STOP)])
    check_told(answer, "rank 1 of 2 kept the others waiting too long (distributed.timeout_s)", f"--resume {run}")
    check_resumes(command, words, run, pair)


# --- what goes wrong before the first step ----------------------------------------------------------------------------
def test_what_is_wrong_from_the_start_is_one_line(command: Command, words: Words, pair: Pair, tmp_path: Path) -> None:
    check_told(command(words(tmp_path / "run", "train.stepz=3"), ranks=2), "stepz")
    check_told(command(["train", "--resume", str(tmp_path)], ranks=2), "no run")
    check_told(command(words(pair[0]), ranks=2), "already holds a run")


@pytest.mark.slow
def test_a_run_in_use_and_a_damaged_checkpoint_are_one_line(command: Command, words: Words, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(words(run), ranks=2, hits=[hit("optimizer", 3, 1, TERM)])["code"] == 143
    lock, _ = take_lock(run / ".lock")
    check_told(command(["train", "--resume", str(run)], ranks=2), "another process is training in this folder")
    lock.close()
    (newest,) = (run / "checkpoints").glob("step_*")
    os.truncate(next(newest.glob("optimizer*2-of*")), 900)
    check_told(command(["train", "--resume", str(run)], ranks=2), f"{newest}: damaged")


# --- torchrun ---------------------------------------------------------------------------------------------------------
def torchrun(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """The command as torchrun starts it, in real processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as out:
        return subprocess.Popen([*launcher, "-m", "edge_grpo", *words], stdout=out, stderr=out, env=environment)


def pid_of(rank: int, run: Path) -> int:
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            command_line = (environ.parent / "cmdline").read_bytes()
            if f"\0RANK={rank}\0".encode() in b"\0" + environ.read_bytes() and str(run).encode() in command_line:
                return int(environ.parent.name)
        except OSError:
            continue
    raise LookupError(rank)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill a rank", "stop a rank", "stop torchrun"])
def test_torchrun_ends_and_resumes(how: str, words: Words, command: Command, pair: Pair, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    with torchrun(words(run), log) as process:
        until(lambda: b"step 1/4" in log.read_bytes(), timeout_s=120)
        pid = process.pid if how == "stop torchrun" else pid_of(1, run)
        os.kill(pid, KILL if how == "kill a rank" else TERM)
        began = time.monotonic()
        process.wait(timeout=LIMIT_S)
    out = log.read_text()
    told = [line for line in out.splitlines() if line.startswith("edge-grpo: ")]
    assert time.monotonic() - began < LIMIT_S
    if how == "kill a rank":
        assert len(told) == 1, out
        assert "rank 1 of 2 ended; resume with: torchrun ... -m edge_grpo train --resume" in told[0]
    else:
        assert told == [], out
        assert "resume with: torchrun ... -m edge_grpo train --resume" in out
    check_resumes(command, words, run, pair)


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_one_line(words: Words, tmp_path: Path) -> None:
    for number, mistaken in enumerate((words(tmp_path / "run", "train.stepz=3"), ["export", "a", "b"])):
        log = tmp_path / str(number)
        with torchrun(mistaken, log) as process:
            process.wait(timeout=120)
        assert log.read_text().count("edge-grpo: ") == 1, log.read_text()
