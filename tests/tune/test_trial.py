"""A trial's own process: it trains, asks all parts as `edge-grpo eval` does, and ends in order."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from support import save_tiny
from tune.spaces import space_of

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import load_config
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
    "run.tensorboard=false",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("trial") / "tiny"))


def write_task(folder, model, objective, *words, searched=()):
    own = [*FAST, f"model.path={model}", *words]
    task = {"number": 1, "settings": {}, "base": "", "words": [*own, *searched], "exam": own}
    task["objective"] = asdict(objective)
    (folder / TASK).write_text(json.dumps(task))


def test_parts_are_numbers_of_operands_or_benchmarks(tmp_path):
    config = load_config()
    parts = benchmarks_of(Objective(weights={3: 1, 5: 1}, problems=5), config)
    assert [(each.name, len(each.problems)) for each in parts] == [("3", 5), ("5", 5)]
    assert all(p.meta["num_operands"] == int(each.name) for each in parts for p in each.problems)
    (tmp_path / "one.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    (tmp_path / "suite.yaml").write_text("benchmarks: {A: one.jsonl, B: one.jsonl}\n")
    suite = str(tmp_path / "suite.yaml")
    assert [each.name for each in benchmarks_of(Objective(weights={"B": 1}, suite=suite), config)] == ["B"]
    with pytest.raises(ConfigError, match=r"objective\.weights: C not in .*suite\.yaml; it has A, B"):
        benchmarks_of(Objective(weights={"C": 1}, suite=suite), config)


def test_it_trains_and_asks_and_asks_nothing_twice(tmp_path, model):
    (tmp_path / "judge.py").write_text(
        "def reward(completions, problems):\n"
        "    return [{'r': 1.0, 'correct': p.meta['num_operands'] == 3} for p in problems]\n"
    )
    judge = f"reward.function={tmp_path / 'judge.py'}:reward"
    write_task(tmp_path, model, Objective(weights={3: 1, 4: 1}, problems=3, metric="avg@2"), judge)
    assert run(tmp_path) == 0
    first = json.loads((tmp_path / RESULT).read_text())
    assert first["parts"] == {"3": 1.0, "4": 0.0}
    assert first["seconds"] > 0
    lines = (tmp_path / "answers" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 12
    (tmp_path / RESULT).unlink()
    assert run(tmp_path) == 0  # as after a kill between the answers and the scores
    assert json.loads((tmp_path / RESULT).read_text())["parts"] == first["parts"]
    assert (tmp_path / "answers" / "answers.jsonl").read_text().splitlines() == lines


def test_values_that_do_not_go_together_are_told(tmp_path, model):
    write_task(tmp_path, model, Objective(weights={3: 1}, problems=3), "method.correction.reflect=1")
    with pytest.raises(ConfigError, match="must sum to 1"):
        run(tmp_path)


def test_all_trials_sit_the_same_exam(tmp_path, model, monkeypatch):
    seen = []
    plain = module.answer_all

    def answer_all(sampler, config, draws, asked, folder):
        seen.append((draws.temperature, draws.max_new_tokens, config.reward.accuracy_weight))
        return plain(sampler, config, draws, asked, folder)

    monkeypatch.setattr(module, "answer_all", answer_all)
    searched = ("rollout.temperature=0.3", "rollout.max_new_tokens=5", "reward.accuracy_weight=2")
    objective = Objective(weights={3: 1}, problems=3, metric="avg@2")
    for name, words in (("a", ()), ("b", (*searched, "data.arithmetic.operands={4: 1.0}", "data.arithmetic.seed=9"))):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name, model, objective, searched=words)
        assert run(tmp_path / name) == 0
    assert seen == [(1.0, 6, 1.0)] * 2
    prompts = [
        {json.loads(line)["prompt"] for line in (tmp_path / name / "answers/answers.jsonl").read_text().splitlines()}
        for name in "ab"
    ]
    assert prompts[0] == prompts[1]
    trained = load_config(str(tmp_path / "b" / "run" / "config.yaml"))
    assert (trained.rollout.temperature, trained.data.arithmetic.seed) == (0.3, 9)


@pytest.mark.parametrize("gone", [("checkpoints",), ("checkpoints", "final")])
def test_tried_again_it_is_asked_again(tmp_path, model, gone):
    """As after its line and its scores were taken out, when it is trained again."""
    write_task(tmp_path, model, Objective(weights={3: 1}, problems=3))
    assert run(tmp_path) == 0
    answers = tmp_path / "answers" / "answers.jsonl"
    before = answers.stat().st_ino
    for name in gone:
        remove_tree(tmp_path / "run" / name)
    (tmp_path / RESULT).unlink()
    (tmp_path / "old").hardlink_to(answers)  # or its number might be given to the new one
    assert run(tmp_path) == 0
    assert answers.stat().st_ino != before


def test_the_metric_says_how_often_it_is_asked(tmp_path):
    space = space_of(tmp_path)
    assert replace(space.objective, metric="avg@4").samples == 4
    assert space.objective.samples == 0


def start(folder):
    command = [sys.executable, "-m", "edge_grpo.tune.trial", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_process_ends_in_order_when_nobody_waits_for_it(tmp_path, model):
    words = ("train.steps=500", "train.checkpoint_every=500")
    write_task(tmp_path, model, Objective(weights={3: 1}, problems=3), *words)
    process = start(tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    second = start(tmp_path)  # waits for the first one to end
    time.sleep(1)
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
def test_an_error_is_one_line_and_exit_code_2(tmp_path, model):
    write_task(tmp_path, model + "-gone", Objective(weights={3: 1}, problems=3))
    process = start(tmp_path)
    assert process.wait(120) == 2
    errors = process.stderr.read()
    process.stdin.close()
    process.stderr.close()
    assert errors.count("\n") == 1
    assert "tiny-gone" in errors
