"""The tutorial's page shows what its script does, and the script runs."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_grpo.base.records import Problem
from edge_grpo.config.tree import load_config
from edge_grpo.rewards import Rewards, RewardSettings

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "tutorial.py"
SOURCE = SCRIPT.read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BEFORE_YOUR_OWN = PAGE.partition("## With a model of your own")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}(?: parse-only)?\n(.*?)^```$", BEFORE_YOUR_OWN, re.M | re.S)


@pytest.fixture(scope="module")
def tutorial() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("block", [*blocks("python"), *blocks("yaml")])
def test_every_block_of_code_is_in_the_script(block: str) -> None:
    assert block.strip()
    assert block in SOURCE


def test_the_page_shows_commands() -> None:
    assert [len(blocks(language)) for language in ("python", "yaml", "bash")] == [3, 1, 4]


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
def test_every_command_is_in_the_script(line: str) -> None:
    program, *words = shlex.split(line)
    assert " ".join(words if program == "edge-grpo" else [program, *words]) in SOURCE


def test_the_reward_gives_partial_credit(tutorial: dict[str, Any]) -> None:
    problem = Problem("a", "Compute 1+2+3.", ("6",), solution="")
    texts = ["=3+3\n=6\n\\boxed{6}", "=3+3\n=7\n\\boxed{7}", "=1+2\n=3\n\\boxed{3}", "", "=2**99999999+1\n\\boxed{6}"]
    rewards = tutorial["reward"](texts, [problem] * len(texts))
    assert [one["accuracy"] + one["progress"] for one in rewards] == [1.5, 0.25, 0, 0, 1]
    assert [one["correct"] for one in rewards] == [1, 0, 0, 0, 1]


def test_the_reward_works_in_a_worker() -> None:
    with Rewards(RewardSettings(function=f"{SCRIPT}:reward", function_parts=("accuracy", "progress"))) as rewards:
        (grade,) = rewards.grade([Problem("a", "Compute 1+2.", ("3",), solution="")], ["=3\n\\boxed{3}"], [True])
    assert (grade.reward, grade.correct, grade.parts["progress"]) == (1.5, True, 0.5)


def test_the_problems_are_distinct_and_right(tutorial: dict[str, Any], tmp_path: Path) -> None:
    tutorial["write_problems"](tmp_path, 50)
    files = [(tmp_path / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("problems", "held_out")]
    rows = [json.loads(line) for text in files for line in text.splitlines()]
    assert len({row["question"] for row in rows}) == 50
    assert all(tutorial["value"](row["question"][8:-1]) == row["final"] for row in rows)
    assert all(row["worked"].endswith(f"\\boxed{{{row['final']}}}") for row in rows)


def test_the_settings_are_valid(tutorial: dict[str, Any]) -> None:
    config = load_config(yaml.safe_load(tutorial["SETTINGS"]))
    assert (config.train.steps, config.method.kind) == (12, "edge_grpo")


@pytest.mark.slow
def test_the_script_runs(
    tutorial: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial["main"]("tutorial", count=60, steps=1)
    said = capfd.readouterr().out
    assert "problems kept: chosen.jsonl" in said
    for line in ("by the answer alone:", "with partial credit:", "after corrections:  "):
        assert f"\n{line} " in said
    assert "pass@1   held_out" in said
    assert (tmp_path / "tutorial" / "run" / "final" / "config.json").is_file()
