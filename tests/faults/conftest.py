"""What the fault tests share: the process that runs commands with faults, a model, and a run that nothing befell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import SMALL
from support import save_tiny

HARNESS = Path(__file__).parent / "harness.py"


@pytest.fixture(scope="session")
def command():
    """Runs ``edge-grpo`` words in a forked process with faults; see ``harness.py``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, str(HARNESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def run(words, **job):
            process.stdin.write(json.dumps({"words": words, **job}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert not answer["hung"], answer["out"]
            return answer

        yield run
        process.stdin.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny random model."""
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def words(tiny):
    """The command line of a small run in a folder."""

    def make(folder, *more):
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
def straight(command, words, tmp_path_factory):
    """The folder of a run that nothing befell, and how often each point was passed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    answer = command(words(folder))
    assert answer["code"] == 0, answer["out"]
    return folder, answer["counts"]
