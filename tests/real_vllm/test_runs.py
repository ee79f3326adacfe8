"""Whole runs on a real server: they learn as in process, and every way of asking a model works on it."""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest
from real_vllm.servers import Server
from small_runs import rows
from support import Command

from edge_grpo.config.tree import load_config
from edge_grpo.runs.completions import rollouts
from edge_grpo.training.loop import train

SEEDS = (0, 1, 2)
QUIET = ["eval.every=0", "eval.at_start=false", "eval.at_end=false", "run.trackers=[]"]
SMALL = [
    "train.steps=2",
    "rollout.max_new_tokens=24",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "data.arithmetic.size=40",
    "eval.size=8",
    "reward.workers=1",
    "method.correction.max_new_tokens=110",
]


def on(server: Server, tmp_path: Path) -> list[str]:
    return ["rollout.engine.kind=vllm", f"rollout.engine.urls=[{server.url}]", f"rollout.engine.folder={tmp_path}"]


def curves(tmp_path: Path, words: list[str]) -> list[list[float]]:
    """The reward of every step, by seed."""
    found = []
    for seed in SEEDS:
        folder = tmp_path / f"seed-{seed}"
        train(load_config(None, ["train.steps=5", f"train.seed={seed}", *QUIET, f"run.dir={folder}", *words]))
        found.append([row["reward/before"] for row in rows(folder)[-5:]])
    return found


def test_five_steps_of_edge_grpo_learn_as_in_process(server: Server, tmp_path: Path) -> None:
    theirs = curves(tmp_path / "server", on(server, tmp_path))
    ours = curves(tmp_path / "in-process", [])
    for name, found in (("server", theirs), ("in process", ours)):
        sys.stdout.write(f"{name}: " + "; ".join(" ".join(f"{own:.3f}" for own in each) for each in found) + "\n")
    averages = [mean(each) for each in theirs], [mean(each) for each in ours]
    noise = max(map(stdev, averages))
    assert abs(mean(averages[0]) - mean(averages[1])) < 3 * noise
    for row in rows(tmp_path / "server" / "seed-0")[-5:]:
        assert row["sampler/gap_max"] < 1e-3


@pytest.mark.parametrize(
    "words",
    [
        ["method=edge_grpo"],
        ["method=mgrpo"],
        ["method=share_grpo"],
        ["method=dapo", "method.top_up.max_rounds=2"],
        ["method=grpo", "rollout.top_k=5", "rollout.temperature=0.8"],
        ["method=grpo", "rollout.stop=['=']"],
    ],
    ids=lambda words: " ".join(word.removeprefix("method=").removeprefix("rollout.") for word in words),
)
def test_ways_of_sampling_work_on_it(server: Server, words: list[str], tmp_path: Path) -> None:
    small = [word for word in SMALL if words[0] == "method=edge_grpo" or not word.startswith("method.")]
    result = train(load_config(None, [*words, *small, *QUIET, f"run.dir={tmp_path / 'run'}", *on(server, tmp_path)]))
    assert result.steps == 2
    spans = [(row["step"], span) for row in rollouts(result.folder).to_pylist() for span in row["spans"]]
    assert all(span["version"] == (None if span["origin"] == "injected" else step - 1) for step, span in spans)


def test_evaluation_and_screening_ask_it(server: Server, command: Command, tmp_path: Path) -> None:
    words = [*on(server, tmp_path), "eval.size=24", "data.arithmetic.size=24"]
    greedy = {}
    for name, own in (("server", words), ("in-process", words[3:])):
        code, out, error = command("eval", "bundled", *own, "--samples", "2", "--out", name)
        assert (code, error) == (0, ""), out
        found = json.loads((tmp_path / name / "results.json").read_text())["benchmarks"]["held-out"]
        greedy[name] = found["scores"]["pass@1/greedy"]["value"]
    assert greedy["server"] == greedy["in-process"]
    Path("problems.jsonl").write_text(
        '{"problem": "Compute 2+3-1.", "answer": 4}\n{"problem": "Compute 7+8.", "answer": 15}\n'
    )
    code, _, error = command("screen", "problems.jsonl", "--model", "bundled", "--samples", "2", *words)
    assert (code, error) == (0, "")
