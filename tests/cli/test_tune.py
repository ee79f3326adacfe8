"""``edge-grpo tune`` from the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import PROBLEM, Command

from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.tune import study
from edge_grpo.tune.space_file import load_space

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
settings: [train.steps=1]
space:
  train.learning_rate: {type: log, low: 1.0e-5, high: 1.0e-3}
  train.schedule: {type: categorical, values: [linear, cosine]}
objective:
  weights: {3: 0.5, 4: 0.5}
  problems: 4
trials: 4
initial: 2
"""
STAND_IN = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
task = json.loads((folder / "trial.json").read_text())
rate = task["settings"]["train.learning_rate"] * 1000
if task["number"] == 3:
    sys.exit("[red]no such model[/red]")
(folder / "result.json").write_text(json.dumps({"parts": {"3": 0.25 + rate / 4, "4": 0.5}, "seconds": 2.0}))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A space file and trials that take no time."""
    (tmp_path / "s.yaml").write_text(SPACE)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(study, "_COMMAND", (sys.executable, str(tmp_path / "stand_in.py")))
    monkeypatch.setattr(study, "_POLL_S", 0.01)
    monkeypatch.setattr(study, "benchmarks_of", lambda *_: [Benchmark("3", "", (PROBLEM,))])  # drawing them is slow
    return tmp_path


def test_a_search_leaves_a_table_a_page_and_the_best_configuration(command: Command, place: Path) -> None:
    code, out, err = command("tune", "s.yaml")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in next(Path("runs/tune").glob("s-*/trials.jsonl")).read_text().splitlines()]
    assert [line["state"] for line in lines] == ["finished", "finished", "failed", "finished"]
    best = max(line["whole"] for line in lines if line["whole"] is not None)
    assert f"best {best:.4f}" in out
    assert "3/4" in out
    assert "failed ([red]no such model[/red])" in out
    table = out[out.index("whole") :]
    assert all(f"{line['parts']['3']:.3f}" in table for line in lines if line["parts"])
    assert "next: train.learning_rate=" in out
    (page,) = Path("runs/tune").glob("s-*/page.html")
    assert "<svg" in page.read_text()
    code, shown, _ = command("show-config", str(page.with_name("best.yaml")))
    assert code == 0
    assert "steps: 1" in shown
    code, out, _ = command("tune", "s.yaml")
    assert code == 0
    assert "4 trials already finished" in out
    assert "5/4" not in out
    code, out, _ = command("tune", "s.yaml", "--trials", "5", "--jobs", "2")
    assert "5/5" in out


def test_the_sum_alone_is_another_study(command: Command, place: Path) -> None:
    assert command("tune", "s.yaml", "--decomposed", "false", "--out", "one", "--trials", "2")[0] == 0
    code, _, err = command("tune", "s.yaml", "--out", "one")
    assert code == 2
    assert "one holds another study (decomposed was False, is True)" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.yaml"], "gone.yaml: no such configuration file"),
        (["s.yaml", "--decomposed", "no"], "'--decomposed'"),
        (["s.yaml", "--jobs", "0"], "'--jobs'"),
        (["bad.yaml"], "bad.yaml: train.learning_rat: no such setting (did you mean 'train.learning_rate'?)"),
        (["s.yaml", "--out", "s.yaml"], "--out: s.yaml cannot be written"),
        ([], "Missing argument 'SPACE.yaml'"),
    ],
)
def test_mistakes_are_one_line(command: Command, place: Path, words: list[str], message: str) -> None:
    (place / "bad.yaml").write_text(SPACE.replace("learning_rate", "learning_rat"))
    code, _, err = command("tune", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_if_nothing_works_the_reason_is_reported(command: Command, place: Path) -> None:
    (place / "stand_in.py").write_text("import sys; sys.exit('the disk is full')")
    code, _, err = command("tune", "s.yaml")
    assert code == 2
    assert "none of 2 trials has finished; the last one: failed (the disk is full)" in err


def test_the_space_of_the_repository() -> None:
    space = load_space(str(ROOT / "configs" / "tune" / "arithmetic.yaml"))
    assert sum(space.objective.parts.values()) == pytest.approx(1)
    assert 0 < space.trial_s <= 30


@pytest.mark.slow
def test_ctrl_c_stops_trials_cleanly_and_they_resume(tmp_path: Path, model: str) -> None:
    """A real search with a tiny model, stopped during training."""
    text = SPACE.replace("trials: 4", "trials: 2").replace(
        "[train.steps=1]",
        f"[train.steps=40, train.checkpoint_every=1000, model.path={model}, rollout.max_new_tokens=6, "
        "rollout.prompts_per_step=2, rollout.group_size=2, reward.workers=1]",
    )
    (tmp_path / "s.yaml").write_text(text)
    words = [sys.executable, "-c", "from edge_grpo.cli.main import main; main()", "tune", "s.yaml", "--out", "o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    metrics = tmp_path / "o" / "trials" / "0001" / "run" / "metrics.jsonl"
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "edge-grpo: stopped\n"
    assert not (tmp_path / "o" / "trials.jsonl").exists()
    assert list((metrics.parent / "checkpoints").glob("step_*"))
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    trials = [json.loads(line) for line in (tmp_path / "o" / "trials.jsonl").read_text().splitlines()]
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [*range(1, 41)]


def test_a_wide_table_loses_no_column(command: Command, place: Path) -> None:
    parts = ", ".join(f"{count}: 1" for count in range(3, 12))
    (place / "s.yaml").write_text(SPACE.replace("3: 0.5, 4: 0.5", parts))
    (place / "stand_in.py").write_text(
        STAND_IN.replace('{"3": 0.25 + rate / 4, "4": 0.5}', "{str(n): 0.111 * (n - 2) for n in range(3, 12)}")
    )
    _, out, _ = command("tune", "s.yaml", "--trials", "2")
    row = next(line for line in out.splitlines() if "0.111" in line)
    assert row.split()[3:] == [f"{0.111 * n:.3f}" for n in range(1, 10)] + ["4.995", "4.995", "2"]
