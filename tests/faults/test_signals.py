"""SIGTERM and Ctrl-C in every phase: step dropped or finished, exit codes that name the signal, bit-exact resume."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from faults.fixtures import Command, Straight, Words
from small_runs import rows, weights

# Where the signal comes, at which call, and how many steps are done when the run has stopped: in the second step, a
# step before its first update is dropped and a later one finished.
DROPPED = [("sampling", 150, 1), ("grading", 7, 1), ("scoring", 5, 1), ("shaping", 2, 1)]
FINISHED = [("backward", 4, 2), ("optimizer", 2, 2), ("updated", 2, 2), ("rollouts", 2, 2), ("metrics", 3, 2)]
AT_EVALUATION = [("evaluation", 1, 0), ("evaluation", 2, 2)]  # the first one is before any step, the second in step 2
AT_CHECKPOINT = [("checkpoint", 1, 2), ("checksums", 1, 2), ("whole draft", 1, 2), ("renamed", 1, 2), ("events", 3, 2)]
EVERY = [*DROPPED, *FINISHED, *AT_EVALUATION, *AT_CHECKPOINT]
FAST = [("sampling", 150, 1), ("optimizer", 2, 2)]


def stopped(command: Command, words: Words, folder: Path, point: str, n: int, number: int) -> dict[str, Any]:
    answer = command(words(folder), hits=[{"point": point, "n": n, "signals": [number]}])
    assert answer["reached"] == [point], answer["out"]
    assert answer["code"] == 128 + number, answer["out"]
    assert "Traceback" not in answer["out"]
    return answer


def check_resumed(command: Command, folder: Path, straight: Path) -> None:
    answer = command(["train", "--resume", str(folder)])
    assert answer["code"] == 0, answer["out"]
    assert weights(folder) == weights(straight)
    assert rows(folder) == rows(straight)


@pytest.mark.parametrize(
    ("point", "n", "steps"),
    [pytest.param(*each, marks=[] if each in FAST else pytest.mark.slow) for each in EVERY],
)
def test_a_signal_drops_the_step_or_waits_for_its_end(
    command: Command, words: Words, straight: Straight, tmp_path: Path, point: str, n: int, steps: int
) -> None:
    number = signal.SIGTERM if n % 2 else signal.SIGINT
    answer = stopped(command, words, tmp_path / "run", point, n, number)
    assert f"stopped before step {steps + 1}; resume with: edge-grpo train --resume" in answer["out"]
    saved = tmp_path / f"run/checkpoints/step_{steps:06d}/progress.json"
    assert json.loads(saved.read_text())["step"] == steps
    check_resumed(command, tmp_path / "run", straight[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_final_writes_lets_them_finish(
    command: Command, words: Words, straight: Straight, tmp_path: Path, number: int
) -> None:
    for point, n in (("checkpoint", 2), ("final", 1), ("final draft", 1)):
        run = tmp_path / point.replace(" ", "-")
        answer = command(words(run), hits=[{"point": point, "n": n, "signals": [number]}])
        assert (answer["code"], answer["reached"]) == (0, [point]), answer["out"]
        assert weights(run) == weights(straight[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_start_leaves_no_run(command: Command, words: Words, tmp_path: Path, number: int) -> None:
    answer = command(words(tmp_path / "run"), hits=[{"point": "loading", "n": 1, "signals": [number]}])
    assert (answer["code"], answer["reached"]) == (128 + number, ["loading"])
    assert answer["out"].strip().splitlines()[-1] == "edge-grpo: stopped"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("point", "n"),
    [
        ("optimizer", 3),
        ("metrics", 4),
        ("evaluation", 2),
        ("checkpoint", 2),
        ("whole draft", 2),
        ("renamed", 2),
        ("final", 1),
    ],
)
def test_a_second_signal_exits_at_once_and_harms_no_checkpoint(
    command: Command, words: Words, straight: Straight, tmp_path: Path, point: str, n: int, second: int
) -> None:
    """The first one waits for the current step; the second one, at the same moment, does not."""
    run = tmp_path / "run"
    answer = command(words(run), hits=[{"point": point, "n": n, "signals": [signal.SIGTERM, second]}])
    at_once = point == "evaluation"  # sent together, of which Python handles the lower number first
    assert answer["code"] in ({130, 143} if at_once else {128 + second}), answer["out"]
    assert answer["reached"] == [point]
    assert "Traceback" not in answer["out"]
    assert answer["seconds"][1] < 20
    check_resumed(command, run, straight[0])


@pytest.mark.slow
def test_a_second_signal_while_the_checkpoint_of_the_first_is_written(
    command: Command, words: Words, straight: Straight, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    hits = [
        {"point": "sampling", "n": 300, "signals": [signal.SIGINT]},
        {"point": "checkpoint", "n": 2, "signals": [signal.SIGTERM]},
    ]
    answer = command(words(run), hits=hits)
    assert (answer["code"], answer["reached"]) == (143, ["sampling", "checkpoint"]), answer["out"]
    assert [path.name for path in (run / "checkpoints").glob("step_*")] == ["step_000002"]
    check_resumed(command, run, straight[0])


@pytest.mark.slow
def test_two_signals_at_any_moment_never_hang(
    command: Command, words: Words, straight: Straight, tmp_path: Path
) -> None:
    rng = random.Random(12)
    for number in range(12):
        run, gap_s = tmp_path / str(number), rng.uniform(0.001, 0.3)
        hit = {"point": "sampling", "n": 1 + 33 * number, "signals": [signal.SIGTERM, signal.SIGINT], "gap_s": gap_s}
        answer = command(words(run), hits=[hit])
        assert answer["code"] in (130, 143, -signal.SIGINT), answer["out"]  # the last: while Python was exiting
        assert "Traceback" not in answer["out"]
        assert answer["seconds"][1] < 20
        answer = command(["train", "--resume", str(run)] if (run / "config.yaml").exists() else words(run))
        assert answer["code"] == 0, answer["out"]
        assert weights(run) == weights(straight[0])


@pytest.mark.slow
def test_sigterm_ends_other_commands_cleanly(command: Command, tiny: Path) -> None:
    words = ["eval", "--model", str(tiny), "eval.size=40", "rollout.max_new_tokens=40"]
    for number in (signal.SIGTERM, signal.SIGINT):
        answer = command(words, hits=[{"point": "sampling", "n": 20, "signals": [number]}])
        assert (answer["code"], answer["reached"]) == (128 + number, ["sampling"]), answer["out"]
        assert answer["out"].strip().splitlines()[-1] == "edge-grpo: stopped"
