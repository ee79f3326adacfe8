"""A trial's own process: it trains, evaluates every part as `edge-grpo eval` does, and shuts down cleanly."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support import save_tiny
from tune.spaces import space_of

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.evaluation.answers import Answer, Draws
from edge_grpo.evaluation.store import EncodedBenchmark
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.runs.durable import remove_tree
from edge_grpo.tune import trial as module
from edge_grpo.tune.space import Objective
from edge_grpo.tune.trial import RESULT, TASK, benchmarks_of, run

FAST = (
    "train.steps=1",
    "rollout.prompts_per_step=2",
    "rollout.group_size=2",
    "rollout.max_new_tokens=6",
    "reward.workers=1",
    "eval.every=0",
    "eval.at_start=false",
    "eval.at_end=false",
    "run.trackers=[]",
)
ARITHMETIC = Objective(weights={3: 1}, problems=3, metric="avg@2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, problems to train on, and a suite of two benchmarks: drawing built-in problems takes seconds."""
    folder = tmp_path_factory.mktemp("trial")
    save_tiny(folder / "tiny")
    for name in ("train", "short", "long"):
        rows = [{"problem": f"{name}: {number}+1", "answer": str(number + 1)} for number in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "suite.yaml").write_text("benchmarks: {short: short.jsonl, long: long.jsonl}\n")
    return folder


def suite(place: Path, *names: str, metric: str = "pass@1/greedy") -> Objective:
    return Objective(weights=dict.fromkeys(names, 1.0), suite=str(place / "suite.yaml"), metric=metric)


def write_task(folder: Path, place: Path, objective: Objective, *words: str, searched: Sequence[str] = ()) -> None:
    data = [f"data.{name}={place / 'train.jsonl'}" for name in ("path", "eval_path")]
    own = [*FAST, *data, f"model.path={place / 'tiny'}", *words]
    task = {"number": 1, "settings": {}, "base": "", "words": [*own, *searched], "eval_words": own}
    task["objective"] = asdict(objective)
    (folder / TASK).write_text(json.dumps(task))


def test_parts_are_numbers_of_operands_or_benchmarks(place: Path) -> None:
    config = load_config()
    parts = benchmarks_of(Objective(weights={3: 1, 5: 1}, problems=5), config)
    assert [(each.name, len(each.problems)) for each in parts] == [("3", 5), ("5", 5)]
    assert all(p.meta["num_operands"] == int(each.name) for each in parts for p in each.problems)
    assert [each.name for each in benchmarks_of(suite(place, "long"), config)] == ["long"]
    with pytest.raises(ConfigError, match=r"objective\.weights: C not in .*suite\.yaml, which has short, long"):
        benchmarks_of(suite(place, "C"), config)


def test_a_trial_trains_and_evaluates_and_repeats_no_answer(tmp_path: Path, place: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def reward(completions, problems):\n"
        "    return [{'r': 1.0, 'correct': p.prompt.startswith('short')} for p in problems]\n"
    )
    judge = f"reward.function={tmp_path / 'judge.py'}:reward"
    write_task(tmp_path, place, suite(place, "short", "long", metric="avg@2"), judge)
    assert run(tmp_path) == 0
    first = json.loads((tmp_path / RESULT).read_text())
    assert first["parts"] == {"short": 1.0, "long": 0.0}
    assert first["seconds"] > 0
    lines = (tmp_path / "answers" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 12
    (tmp_path / RESULT).unlink()
    assert run(tmp_path) == 0  # as if killed between the answers and the scores
    assert json.loads((tmp_path / RESULT).read_text())["parts"] == first["parts"]
    assert (tmp_path / "answers" / "answers.jsonl").read_text().splitlines() == lines


def test_contradictory_values_are_reported(tmp_path: Path, place: Path) -> None:
    write_task(tmp_path, place, suite(place, "short"), "method.correction.reflect=1")
    with pytest.raises(ConfigError, match="must sum to 1"):
        run(tmp_path)


def test_all_trials_are_evaluated_alike(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = module.answer_all

    def answer_all(
        sampler: Sampler, config: Config, draws: Draws, asked: Sequence[EncodedBenchmark], folder: Path
    ) -> list[Answer]:
        seen.append((draws.temperature, draws.max_new_tokens, config.reward.accuracy_weight))
        return plain(sampler, config, draws, asked, folder)

    monkeypatch.setattr(module, "answer_all", answer_all)
    searched = ("rollout.temperature=0.3", "rollout.max_new_tokens=5", "reward.accuracy_weight=2")

    for name, words in (("a", ()), ("b", (*searched, "data.arithmetic.operands={4: 1.0}", "data.arithmetic.seed=9"))):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name, place, ARITHMETIC, searched=words)
        assert run(tmp_path / name) == 0
    assert seen == [(1.0, 6, 1.0)] * 2
    prompts = [
        {json.loads(line)["prompt"] for line in (tmp_path / name / "answers/answers.jsonl").read_text().splitlines()}
        for name in "ab"
    ]
    assert prompts[0] == prompts[1]
    trained = load_config(str(tmp_path / "b" / "run" / "config.yaml"))
    assert (trained.rollout.temperature, trained.data.arithmetic.seed) == (0.3, 9)


@pytest.mark.parametrize("missing", [("checkpoints",), ("checkpoints", "final")])
def test_a_retrained_trial_is_evaluated_again(tmp_path: Path, place: Path, missing: tuple[str, ...]) -> None:
    """As if its line and scores had been deleted and it had been retrained."""
    write_task(tmp_path, place, suite(place, "short"))
    assert run(tmp_path) == 0
    answers = tmp_path / "answers" / "answers.jsonl"
    before = answers.stat().st_ino
    for name in missing:
        remove_tree(tmp_path / "run" / name)
    (tmp_path / RESULT).unlink()
    (tmp_path / "old").hardlink_to(answers)  # or its inode might be reused for the new file
    assert run(tmp_path) == 0
    assert answers.stat().st_ino != before


def test_the_metric_determines_the_number_of_samples(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert replace(space.objective, metric="avg@4").samples == 4
    assert space.objective.samples == 0


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_grpo.tune.trial", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_orphaned_process_shuts_down_cleanly(tmp_path: Path, place: Path) -> None:
    words = ("train.steps=500", "train.checkpoint_every=500")
    write_task(tmp_path, place, suite(place, "short"), *words)
    process = start(tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    second = start(tmp_path)
    assert "waiting for an earlier process" in second.stderr.readline()
    process.stdin.close()
    assert process.wait(60) == 143
    assert not process.stderr.read()
    process.stderr.close()
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    steps = len(metrics.read_text().splitlines())
    while time.monotonic() < deadline and len(metrics.read_text().splitlines()) <= steps:
        time.sleep(0.1)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()][: steps + 1] == [
        *range(1, steps + 2)
    ]
    second.stdin.close()
    assert second.wait(60) == 143
    second.stderr.close()


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path, place: Path) -> None:
    write_task(tmp_path, place, suite(place, "short"), f"model.path={place / 'tiny-missing'}")
    process = start(tmp_path)
    assert process.wait(120) == 2
    errors = process.stderr.read()
    process.stdin.close()
    process.stderr.close()
    assert errors.count("\n") == 1
    assert "tiny-missing" in errors
