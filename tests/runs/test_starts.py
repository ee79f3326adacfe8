"""The record of a run's starts survives kills, and tells which machine and versions a start ran on."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from edge_grpo.base.errors import CheckpointError
from edge_grpo.runs import starts
from edge_grpo.runs.environment import environment, git_state


@pytest.mark.parametrize("damage", [b'{"step": 1, "vers', b"\xff\xfe", b"[1]", b"[" * 9999])
def test_a_damaged_line_costs_only_itself(tmp_path: Path, damage: bytes) -> None:
    assert starts.read(tmp_path) == []
    starts.append(tmp_path, {"step": 0})
    with (tmp_path / starts.STARTS).open("ab") as file:
        file.write(damage)
    starts.append(tmp_path, {"step": 2})
    starts.append(tmp_path, {"step": 3})
    assert starts.read(tmp_path) == [{"step": 0}, {"step": 2}, {"step": 3}]


def test_a_record_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / starts.STARTS).mkdir()
    with pytest.raises(CheckpointError, match=r"starts\.jsonl: could not be written .*edge-grpo train --resume"):
        starts.append(tmp_path, {"step": 0})


def test_only_what_may_change_rounding_is_compared() -> None:
    before = {"command": ["a"], "versions": {"torch": "1"}, "hardware": {"cpu": "A", "gpus": [], "threads": 1}}
    now = {"command": ["b"], "versions": {"torch": "2", "new": "1"}, "hardware": {"cpu": "A", "gpus": [], "threads": 2}}
    assert starts.other_environment(before, before) == ""
    assert starts.other_environment(before, now) == "torch was 1, now 2"
    assert starts.other_environment({}, now) == ""
    assert starts.other_environment({"versions": 3}, now) == ""


def test_the_environment_is_recorded_without_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "do-not-record-this")
    found = json.loads(json.dumps(environment()))
    assert {"torch", "transformers", "peft", "python", "edge-grpo"} <= set(found["versions"])
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["cpu"]
    assert found["command"]
    assert "do-not-record-this" not in json.dumps(found)


def git(folder: Path, *words: str) -> None:
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", *words]
    subprocess.run(own, cwd=folder, check=True, capture_output=True)


def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "untracked").write_text("a")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path) == {**clean, "dirty": True}
    monkeypatch.setenv("PATH", os.devnull)
    assert git_state(tmp_path) is None, "without git"
