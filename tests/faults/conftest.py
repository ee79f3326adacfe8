"""What the fault tests share: the process that runs commands with faults, a model, and an uninterrupted run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.fixtures import Command, Pair, Straight, Words
from small_runs import SMALL
from support import save_tiny

HARNESS = Path(__file__).parent / "harness.py"


@pytest.fixture(scope="session")
def command() -> Iterator[Command]:
    """Runs ``edge-grpo`` words in a forked process with faults; see ``harness.py``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, str(HARNESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def run(words: Sequence[str], **job: Any) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"words": words, **job}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            assert not answer["hung"], answer["out"]
            return answer

        yield run
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def words(tiny: Path) -> Words:
    """The command line of a small run in a folder."""

    def make(folder: Path, *more: str) -> list[str]:
        settings = [
            f"model.path={tiny}",
            *SMALL,
            "train.steps=4",
            "train.micro_batch_rows=4",
            "train.keep_checkpoints=1",
        ]
        return ["train", *settings, f"run.dir={folder}", *more]

    return make


@pytest.fixture(scope="session")
def straight(
    command: Command,
    words: Words,
    tmp_path_factory: pytest.TempPathFactory,
) -> Straight:
    """The folder of an uninterrupted run, and how often each moment was passed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    answer = command(words(folder))
    assert answer["code"] == 0, answer["out"]
    return folder, answer["counts"]


@pytest.fixture(scope="session")
def pair(command: Command, words: Words, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same of a run of two ranks; the moments of each."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    answer = command(words(folder), ranks=2)
    assert answer["code"] == 0, answer["out"]
    return folder, answer["rank_counts"]


@pytest.fixture(scope="session")
def counts(
    command: Command,
    words: Words,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, int]:
    """How often each moment is passed, with a reward function and a method that tell of grading and shaping."""
    never = [{"point": point, "n": 0, "signals": []} for point in ("grading", "shaping")]
    counts: dict[str, int] = command(words(tmp_path_factory.mktemp("counted") / "run"), hits=never)["counts"]
    assert min(counts.values()) > 0, counts
    return counts
