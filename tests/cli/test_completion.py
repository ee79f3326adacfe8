"""Completion in a real bash, and how little it imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")
SCRIPT = """
eval "$(_EDGE_GRPO_COMPLETE=source_bash edge-grpo)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_edge_grpo_completion edge-grpo
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash would offer behind these words, split at ``=`` as bash does."""
    assert BASH
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [BASH, "-c", SCRIPT, "bash", "edge-grpo", *words],
        env={**os.environ, "PATH": path, "COMP_WORDBREAKS": " \t\n="},
        cwd=cwd,
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


pytestmark = pytest.mark.skipif(not BASH, reason="no bash on this machine")


def test_commands_and_settings() -> None:
    assert complete("sett") == ["settings"]
    assert complete("train", "train.learn") == ["train.learning_rate="]
    assert complete("settings", "rollout.group") == ["rollout.group_size"]
    assert complete("methods", "disc") == ["disco", "disco_b"]


def test_values_in_either_form_of_the_words() -> None:
    assert complete("train", "method", "=", "raf") == ["raft", "raft_pp"]
    assert complete("train", "train.schedule", "=", "") == ["constant", "linear", "cosine"]
    assert complete("train", "train.schedule", "=") == ["constant", "linear", "cosine"]
    assert complete("train", "method=raf") == ["method=raft", "method=raft_pp"]


def test_the_settings_are_those_of_the_chosen_method() -> None:
    assert complete("train", "method", "=", "cispo", "method.ca") == ["method.cap="]
    assert complete("train", "method.ca") == []


def test_yaml_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / "mines").mkdir()
    assert complete("train", "mi", cwd=tmp_path) == ["mine.yaml", "mines/"]
    assert complete("eval", "MODEL", "mi", cwd=tmp_path) == ["mine.yaml", "mines/"]


def test_completing_imports_nothing_slow() -> None:
    code = (
        "import sys, typer; from edge_grpo.cli.main import app\n"
        "from edge_grpo.cli.completion import complete_settings\n"
        "context = typer.main.get_command(app).make_context('edge-grpo', ['train'])\n"
        "assert [name for name, _ in complete_settings(context, 'train.st')] == ['train.steps=']\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'datasets', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
