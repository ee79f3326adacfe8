"""Rewards that fail in whole training runs: the rows at fault are counted, the rest is unaffected."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import children
from small_runs import SMALL, rows, weights
from support import save_tiny

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.cli import main as cli
from edge_grpo.config.tree import load_config
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.workers.pool import ATTEMPTS, Ending
from edge_grpo.rewards.workers.template import SHARED
from edge_grpo.training.loop import train

Run = Callable[..., Path]
Killer = Callable[[float], list[int]]

HEAD = """
import math, os, time
def score(text): return len(set(text)) % 3 / 2
def marked(text): return text.count("1") % 3 == 1
def reward(completions, problems):
"""
SOME_RAISE = "    if any(map(marked, completions)): raise ValueError('no')\n    return list(map(score, completions))\n"
SOME_ARE_NAN = "    return [math.nan if marked(text) else score(text) for text in completions]\n"
SOME_DIE = "    if any(map(marked, completions)): os._exit(1)\n    return list(map(score, completions))\n"
SOME_HANG = "    time.sleep(60 * any(map(marked, completions)))\n    return list(map(score, completions))\n"
SOUND = "    time.sleep(0.1)\n    return list(map(score, completions))\n"
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Run:
    def go(body: str, name: str = "run", *words: str) -> Path:
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        settings = [*SMALL, "train.steps=2", "eval.every=0", f"reward.function={tmp_path / name}.py:reward", *words]
        return train(load_config(None, [f"model.path={model}", f"run.dir={tmp_path / name}", *settings])).folder

    return go


@pytest.mark.parametrize(
    ("body", "verdict"),
    [(SOME_RAISE, "error"), (SOME_ARE_NAN, "error"), (SOME_DIE, "timeout")],
    ids=["raises", "returns NaN", "kills its process"],
)
def test_a_reward_that_fails_on_some_rows_costs_those_rows(run: Run, body: str, verdict: str) -> None:
    found = rows(run(body))[1:]
    assert [row["step"] for row in found] == [1, 2]
    assert 0 < max(row[f"verdict/{verdict}"] for row in found) < 1
    assert all(map(all_finite, found))


def all_finite(row: dict[str, Any]) -> bool:
    return "NaN" not in json.dumps(row) and "Infinity" not in json.dumps(row)


@pytest.mark.slow
def test_a_reward_that_never_returns_for_some_rows_costs_those_rows(run: Run) -> None:
    found = rows(run(SOME_HANG, "run", "reward.function_timeout_s=4", "reward.timeout_s=0.3"))[1:]
    assert [row["step"] for row in found] == [1, 2]
    assert 0 < max(row["verdict/timeout"] for row in found) < 1


@pytest.mark.parametrize(
    ("body", "timeout_s", "said"),
    [
        pytest.param("    raise KeyError('answer')\n", 30, "KeyError: 'answer'", id="raises"),
        slow("    return [math.nan] * len(completions)\n", 30, "the function returned nan", id="NaN"),
        slow("    return [1.0]\n", 30, "the function returned 1 entries, want a list of", id="wrong length"),
        pytest.param("    while True: pass\n", 0.5, "killed after", id="never returns"),
        slow("    os.kill(os.getpid(), 9)\n", 30, "the process died (exit code -9)", id="dies"),
    ],
)
def test_a_reward_that_always_fails_ends_the_run_with_one_line(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    timeout_s: float,
    said: str,
) -> None:
    (tmp_path / "mine.py").write_text(HEAD + body)
    words = [f"model.path={model}", f"run.dir={tmp_path / 'run'}", *SMALL, "eval.every=0"]
    words += [f"reward.function_timeout_s={timeout_s}", f"reward.timeout_s={timeout_s}"]
    words += [f"reward.function={tmp_path}/mine.py:reward"]
    monkeypatch.setattr(sys, "argv", ["edge-grpo", "train", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    assert "reward.function" in err
    assert said in err


@pytest.fixture
def killer() -> Iterator[Killer]:
    """Kills one of this program's grading processes at a fixed interval.

    It stops short of the attempts of one call, since on a busy machine every kill may hit the same one.
    """
    stop, killed = threading.Event(), []

    def kill(every_s: float) -> None:
        while len(killed) < ATTEMPTS[Ending.KILLED] - 1 and not stop.wait(every_s):
            for pid in children(SHARED.pid)[:1] if SHARED.pid else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    threads = []

    def start(every_s: float) -> list[int]:
        threads.append(threading.Thread(target=kill, args=(every_s,)))
        threads[0].start()
        return killed

    yield start
    stop.set()
    threads[0].join()


def test_workers_killed_during_a_run_change_no_weight(run: Run, killer: Killer) -> None:
    undisturbed = run(SOUND, "one")
    killed = killer(0.15)
    disturbed = run(SOUND, "two")
    assert len(killed) > 2
    assert weights(undisturbed) == weights(disturbed)
    assert rows(undisturbed) == rows(disturbed)


def test_workers_killed_during_grading_change_no_verdict(killer: Killer) -> None:
    texts = [rf"\boxed{{\int_0^{{{n + 1}}} x\, dx}}" for n in range(60)]  # compared by math-verify, in workers
    problems = [Problem(str(n), "?", (rf"\frac{{{(n + 1) ** 2 + (n % 3 == 0)}}}{{2}}",)) for n in range(60)]
    with Rewards(RewardSettings()) as rewards:
        undisturbed = rewards.grade(problems, texts, [True] * 60)
    killed = killer(0.05)
    with Rewards(RewardSettings()) as rewards:
        assert rewards.grade(problems, texts, [True] * 60) == undisturbed
    assert len(killed) > 5
    assert [grade.correct for grade in undisturbed] == [n % 3 != 0 for n in range(60)]


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_setting_the_clock_during_grading_changes_no_verdict(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = r"\boxed{\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx}"
    texts = [hanging, r"\boxed{1+x}", r"\boxed{2+x}"]
    problems = [Problem(str(n), "?", ("x+1",)) for n in range(3)]
    true_time, began = time.time, time.monotonic()
    with Rewards(RewardSettings(timeout_s=1.0, workers=1)) as rewards:
        monkeypatch.setattr(time, "time", lambda: true_time() + jump_s * (time.monotonic() - began > 0.5))
        grades = rewards.grade(problems, texts, [True] * 3)
    assert [grade.verdict.value for grade in grades][1:] == ["correct", "wrong"]
    assert not grades[0].correct
    assert all(grade.seconds < 20.0 for grade in grades)


def test_nothing_to_score_is_reported_before_any_step(run: Run) -> None:
    with pytest.raises(DataError, match="none of 6 completions could be scored; the first: the function returned None"):
        run("    return [None] * len(completions)\n")
