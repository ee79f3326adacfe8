"""``edge-grpo plan`` and ``edge-grpo doctor`` from the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support import Command

import edge_grpo
from edge_grpo.config.tree import load_config, to_tree

SMALL = ["data.arithmetic.size=40", "eval.size=4", "reward.workers=1", "method=grpo", "rollout.max_new_tokens=24"]


def test_a_plan_shows_counts_memory_and_what_it_does_not_know(command: Command) -> None:
    code, out, err = command("plan", *SMALL, "train.steps=5")
    assert (code, err) == (0, "")
    for shown in ("128, in groups of 8", "memory of a rank, MB", "optimizer (two moments)", "peak:", "assumed:"):
        assert shown in out
    assert "time: not estimated without a measured rate; give --from RUN_DIR or --tokens-per-s X" in out
    assert "<" not in out


def test_json_holds_the_same_numbers(command: Command) -> None:
    code, out, err = command(
        "plan", *SMALL, "train.steps=5", "--tokens-per-s", "100", "--price-per-hour", "36", "--json"
    )
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["counts"]["completions"] == {"low": 128, "high": 128}
    assert plan["counts"]["tokens"] == 128 * 24
    memory = plan["memory"]
    assert memory["peak"]["bytes"] == max(memory["phases"].values())
    assert memory["phases"]["update"] == sum(part["bytes"] for part in memory["parts"] if "update" in part["phases"])
    assert plan["cost"]["steps_s"] == pytest.approx(5 * 128 * 24 / 100)
    assert plan["cost"]["price"] == pytest.approx(36 * plan["cost"]["total_s"] / 3600)
    assert plan["cost"]["bound"]
    assert plan["probe"] is None


def test_memory_for_shorter_completions(command: Command) -> None:
    code, out, _ = command("plan", *SMALL, "--completion-tokens", "6", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["counts"]["longest"] == 24
    assert any("completions of 6" in part["note"] for part in plan["memory"]["parts"])
    assert "memory: none has more than 6 tokens" in plan["assumptions"][0]


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run of three steps, of which metrics are all that is read."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_tree(load_config(None, SMALL))))
    rows = [{"step": 0, "time/eval_s": 4.0}]
    for step, speed in enumerate((50.0, 200.0, 300.0), 1):
        timed = {"time/step_s": 2.0, "time/sample_s": 1.5, "time/update_s": 0.5, "time/tokens_per_s": speed}
        rows.append({"step": step, "tokens": 1280.0, "accuracy": 0.01, "collapse/before": 0.9, **timed})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_an_earlier_run_gives_rates_lengths_and_cautions(command: Command, run: str) -> None:
    words = ["plan", *SMALL, "train.steps=5", "eval.every=0", "--from", run]
    code, out, _ = command(*words, "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["rates"]["tokens_per_s"] == 200.0
    assert plan["rates"]["phases"] == {"sample": 0.75, "update": 0.25}
    assert plan["cost"]["step_s"] == pytest.approx(128 * 10 / 200)
    assert plan["cost"]["evaluations_s"] == 2 * 4.0
    assert not plan["cost"]["bound"]
    warned = {each["setting"] for each in plan["cautions"]}
    assert {"rollout.group_size", "rollout.prompts_per_step"} <= warned
    code, out, _ = command(*words)
    assert "at 200 sampled tokens a second" in out
    assert "a step there: sample 75%, update 25%" in out
    assert "! rollout.group_size: 90% of the groups are dead as sampled" in out
    assert "69 would leave half of them mixed if all problems were equally hard" in out


def test_a_probe_samples_and_predicts_other_group_sizes(command: Command, model: str) -> None:
    words = [*SMALL, f"model.path={model}", "rollout.group_size=4", "rollout.max_new_tokens=6"]
    code, out, _ = command("plan", *words, "--probe", "--problems", "3", "--json")
    assert code == 0
    probe = json.loads(out)["probe"]
    assert (probe["problems"], probe["answers"]) == (3, 12)
    assert probe["sampling_per_s"] > 0
    assert [each["collapse"]["size"] for each in probe["sizes"]] == [2, 4, 8, 16, 32, 64]
    assert [each["extrapolated"] for each in probe["sizes"]] == [False, False, True, True, True, True]
    assert 0 < probe["cut"] <= 1
    code, out, _ = command("plan", *words, "--probe", "--problems", "3")
    assert "collapsed groups, expected" in out
    assert "! rollout.max_new_tokens:" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "train.step=3"], "train.step"),
        (["plan", "--device", "tpu"], "--device: got 'tpu', wanted auto, cpu or cuda"),
        (["plan", "--tokens-per-s", "3", "--from", "run"], "two rates; give one of them"),
        (["plan", "--from", "gone"], "gone holds no run"),
        (["plan", "model.path=nobody/has-it"], "is not on this machine"),
        (["plan", "--probe", "method=rpo", "data.pairs=pairs.jsonl"], "stored pairs (data.pairs), of which nothing is"),
        (["doctor", "train.step=3"], "train.step"),
    ],
)
def test_a_mistake_is_one_line(command: Command, words: Sequence[str], message: str) -> None:
    code, _, err = command(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_doctor_finds_this_machine_sound(command: Command) -> None:
    code, out, err = command("doctor", "--quick")
    assert (code, err) == (0, "")
    assert "nothing essential is broken" in out
    assert out.splitlines()[-1].endswith(" checks")
    code, out, _ = command("doctor", "--quick", "--json")
    assert json.loads(out)["broken"] == 0


def test_a_doctor_asks_the_servers_of_the_settings(command: Command) -> None:
    words = ["rollout.engine.kind=vllm", "rollout.engine.urls=[http://127.0.0.1:9]"]
    code, out, _ = command("doctor", "--quick", *words)
    assert code == 1
    assert "BROKEN rollout server: http://127.0.0.1:9 does not answer" in out
    assert "edge-grpo serve" in out


def test_a_doctor_checks_the_trackers_of_the_settings(command: Command) -> None:
    name = next((each for each in ("mlflow", "trackio", "wandb") if find_spec(each) is None), "")
    if not name:
        pytest.skip("every tracker is installed")
    code, out, _ = command("doctor", "--quick", f"run.trackers=[{name}]")
    assert code == 1
    assert f"BROKEN extra {name}: " in out
    assert f"pip install 'edge-grpo[{name}]'" in out
    assert command("doctor", "--quick")[0] == 0


def test_a_broken_package_is_told_in_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')\n")
    source = Path(edge_grpo.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"}
    words = [sys.executable, "-m", "edge_grpo", "doctor", "--quick", "train.steps=3"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "BROKEN settings: cannot be read here (ImportError: libcudart.so.12" in done.stdout


def test_small_data_gives_fewer_held_out_problems_than_asked_for(command: Command, tmp_path: Path) -> None:
    rows = ({"problem": f"Compute {i}+1.", "answer": str(i + 1)} for i in range(60))
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = command("plan", "data.path=d.jsonl", "method=grpo")
    assert code == 0
    assert "at most 12 answers" in " ".join(out.split())
