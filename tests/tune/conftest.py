"""Stand-ins for trials that finish at once."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PROBLEM

from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.tune import study as module

STAND_IN = """
import json, os, pathlib, sys, time
sys.path.insert(0, {tests!r})
folder = pathlib.Path(sys.argv[1])
task = json.loads((folder / "trial.json").read_text())
number = task["number"]
with (folder / "begun").open("a") as file:
    file.write("x")
{first}
rate, clip = task["settings"]["train.learning_rate"] * 1000, task["settings"]["method.clip_low"]
parts = {{"3": round(0.9 - rate / 4, 4), "4": round(rate * (1 - clip), 4)}}
(folder / "run" / "final").mkdir(parents=True, exist_ok=True)
(folder / "result.json").write_text(json.dumps({{"parts": parts, "seconds": 1.0}}))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the trial process by one that finishes at once, after running some optional lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "benchmarks_of", lambda *_: [Benchmark(name, "", (PROBLEM,)) for name in ("3", "4")])

    def write(first: str = "") -> None:
        path = tmp_path / "stand_in.py"
        path.write_text(STAND_IN.format(tests=str(Path(__file__).parents[1]), first=textwrap.dedent(first)))
        monkeypatch.setattr(module, "_COMMAND", (sys.executable, str(path)))

    write()
    return write
