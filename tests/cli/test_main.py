"""The command line: a user error prints one line to stderr and exits with code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from support import Command, save_tiny

from edge_grpo import __version__

TINY = [
    "train.steps=2",
    "train.checkpoint_every=1",
    "rollout.max_new_tokens=8",
    "rollout.prompts_per_step=2",
    "rollout.group_size=2",
    "eval.size=4",
    "eval.every=0",
    "data.arithmetic.size=20",
    "reward.workers=1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


def test_train_then_eval_then_resume(command: Command, model: str, tmp_path: Path) -> None:
    code, out, err = command("train", f"model.path={model}", *TINY, "run.dir=run")
    assert (code, err) == (0, "")
    assert "step 2/2" in out
    assert "accuracy: training samples, temperature 1; held-out: greedy" in out
    assert "before and after" in out
    assert "held-out accuracy, greedy" in out
    assert "run folder: run" in out
    code, out, _ = command("train", "--resume", "run")
    assert code == 0
    assert "finished" in out
    code, out, _ = command("train", "--resume", "run", "train.steps=3")
    assert code == 0
    assert "step 3/3" in out
    data = tmp_path / "p.jsonl"
    data.write_text('{"problem": "Compute 1+1.", "answer": "2"}\n{"problem": "Compute 1+2.", "answer": 3}\n')
    code, out, _ = command("eval", "--model", "run/final", "--data", str(data), "--out", "e",
                           "eval.samples=2", "eval.temperature=1", "rollout.max_new_tokens=8")  # fmt: skip
    assert code == 0
    assert "run/final on" in out
    assert "pass@2" in out
    saved = [json.loads(line) for line in Path("e/answers.jsonl").read_text().splitlines()]
    assert len(saved) == 6
    assert saved[0]["verdict"] in ("unparsed", "wrong")


def test_a_profile_of_a_new_and_of_a_resumed_run(command: Command, model: str) -> None:
    code, out, err = command("train", f"model.path={model}", *TINY, "run.dir=run", "--profile")
    assert (code, err) == (0, "")
    assert "where the time of 2 steps went:" in out
    assert "operators of step 2 (" in out
    assert "trace: run/profile/trace.json.gz (" in out
    Path("run/profile/trace.json.gz").unlink()
    code, out, _ = command("train", "--resume", "run", "train.steps=4", "--profile")
    assert code == 0
    assert "operators of step 4 (" in out
    assert Path("run/profile/trace.json.gz").is_file()


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(model: str, tmp_path: Path) -> None:
    words = ["train", f"model.path={model}", *TINY, "run.dir=run"]
    command_line = [sys.executable, "-u", "-m", "edge_grpo", *words]
    started = subprocess.Popen(command_line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stderr is not None
    assert started.stdout.readline().startswith(b"run folder: run")
    started.stdout.close()
    said = started.stderr.read()
    started.stderr.close()
    assert (started.wait(), said.replace(b"loading the libraries ...\n", b"")) == (0, b"")  # where that takes long
    assert (tmp_path / "run/final/config.json").is_file()


def test_a_short_command_ends_quietly_when_nobody_reads_its_output(tmp_path: Path) -> None:
    line = f"{sys.executable} -m edge_grpo show-config | true"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_unnamed_runs_are_numbered(command: Command, model: str) -> None:
    code, out, _ = command("train", f"model.path={model}", *TINY, "train.steps=0", "eval.at_start=false")
    assert code == 0
    assert "runs/edge_grpo-1" in out


MISTAKES = [
    (["train", "train.stepz=3"], "train.stepz: no such setting (did you mean 'train.steps'?)"),
    (["train", "train.steps=x"], "train.steps: got 'x'"),
    (
        ["train", "train.epochs=3"],
        "(did you mean 'train.steps'? steps = epochs x problems / rollout.prompts_per_step)",
    ),
    (["train", "data.path=questions.jsonl"], "the row has 'question', 'answer'. Set data.fields.prompt=question\n"),
    (
        ["train", "data.path=verl.jsonl"],
        "the row has 'problem', 'reward_model'. Set data.fields.answer=reward_model.ground_truth\n",
    ),
    (["eval", "./nowhere"], "model.path: no such folder: './nowhere'"),
    (["eval", "nowhere"], "model.path: no such folder: 'nowhere', and no hub model of that name can be loaded"),
    (["train", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
    (["train", "rollout.group_size=1"], "rollout.group_size: got 1"),
    (["train", "model.path=./nowhere"], "model.path: no such folder: './nowhere'"),
    (["train", "data.path=nowhere.jsonl"], "nowhere.jsonl: no such file"),
    (["train", "data.path=bad.jsonl"], "bad.jsonl, row 2, field 'answer'"),
    (["train", "method=nope"], "method: 'nope' is not a method"),
    (["train", "train.steps=1", "again.yaml"], "wanted key=value"),
    (["train", "--resume", "nowhere"], "nowhere holds no run"),
    (["train", "--accept-changes"], "--accept-changes: a new run has nothing to compare"),
    (["train", "reward.function=nowhere.py:f"], "nowhere.py"),
    (["train", "data.max_prompt_tokens=3"], "data.max_prompt_tokens is 3"),
    (["train", "data.arithmetic.max_operand=2", "data.arithmetic.operands={2: 1}"], "only"),
    (["eval", "--model", "./nowhere"], "model.path: no such folder: './nowhere'"),
    (["eval", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    (["eval", "--data", "empty.jsonl"], "empty.jsonl: no problems to read"),
    (["show-config", "a.b=1"], "a.b: no such setting"),
    (["make-base", "full", "steps=1"], "full: already exists"),
    (["make-base", "new", "stepz=1"], "stepz: no such setting (did you mean 'steps'?)"),
    (["train", "run.dir=full2"], "full2 has final but no run"),
    (["train", "--nope"], "No such option"),
    (["nope"], "No such command"),
    (["eval", "--model"], "requires an argument"),
    (["train", "data.path=good.jsonl", "eval.size=9"], "data.eval_path"),
    (
        ["eval", "--data", "good.jsonl", "--out", "good.jsonl", "rollout.max_new_tokens=2"],
        "--out: good.jsonl cannot be written",
    ),
    (["eval", "--data", "good.jsonl", "rollout.max_new_tokens=9999"], "exceed the model's context"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words)[:50] for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": null}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "questions.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    (tmp_path / "verl.jsonl").write_text('{"problem": "1+1?", "reward_model": {"ground_truth": "2"}}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    (tmp_path / "good.jsonl").write_text('{"problem": "a", "answer": "1"}\n')
    (tmp_path / "full2/final").mkdir(parents=True)
    code, _, err = command(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*"))  # a mistake leaves no run folder behind


def test_a_corrected_command_may_use_the_same_folder(command: Command, model: str, tmp_path: Path) -> None:
    words = ["train", f"model.path={model}", *TINY, "train.steps=1", "eval.at_start=false", "run.dir=r"]
    assert command(*words, "data.path=typo.jsonl")[0] == 2
    assert not (tmp_path / "r").exists()
    assert command(*words)[0] == 0


def test_eval_of_a_run_uses_its_settings(command: Command, model: str) -> None:
    words = ["train", f"model.path={model}", *TINY, "train.steps=1", "eval.at_start=false", "run.dir=r"]
    assert command(*words)[0] == 0
    code, out, _ = command("eval", "--model", "r/final")
    assert code == 0
    assert re.search(r"held-out +4 +0\.0%", out)
    assert "ran out of 8 tokens" in out
    assert command("eval", "--model", "r")[0] == 0
    assert command("eval", "r/final")[1] == command("eval", "--model", "r/final")[1]
    code, out, _ = command("eval", f"model.path={model}", "eval.size=2", "rollout.max_new_tokens=3")
    assert code == 0
    assert f"{model} on held-out problems" in out


def test_resume_and_eval_from_another_folder(
    command: Command, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(model)
    rows = [json.dumps({"problem": f"Compute {i}+1.", "answer": i + 1}) for i in range(6)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    (tmp_path / "judge.py").write_text("def reward(completions, problems):\n    return [1.0 for _ in problems]\n")
    words = ["model.path=model", "data.path=d.jsonl", "data.eval_path=./d.jsonl", "reward.function=judge:reward",
             *TINY, "run.dir=r"]  # fmt: skip
    code, out, err = command("train", *words)
    assert (code, err) == (0, "")
    assert "right or wrong: 'correct' of reward.function" in out
    code, out, _ = command(
        "train", "--resume", "r", *words, "train.steps=3"
    )  # the same arguments, from the same folder
    assert code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = command("train", "--resume", "../r", "train.steps=4")
    assert (code, err) == (0, "")
    assert "step 4/4" in out
    code, out, err = command("eval", "--model", "../r/final", "eval.size=2")
    assert (code, err) == (0, "")
    assert re.search(r"held-out +2 +0\.0%", out)
    code, _, err = command("train", "--resume", "../r", "data.path=d.jsonl")
    assert code == 2
    assert "data.path was" in err
    (tmp_path / "d.jsonl").write_text("\n".join(rows[1:]))
    code, _, err = command("train", "--resume", "../r", "train.steps=5")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "data.path and data.eval_path changed since the run was last started" in err
    code, out, err = command("train", "--resume", "../r", "train.steps=5", "--accept-changes")
    assert (code, err) == (0, "")
    assert "accepted: data.path and data.eval_path" in out


def test_a_hub_name_without_a_network_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from transformers import AutoConfig

    def unreachable(*words: object, **options: object) -> NoReturn:
        log = huggingface_hub.logging.get_logger("huggingface_hub.utils._http")
        log.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    code, out, err = command("train", "model.path=nobody/nowhere", *TINY)
    assert code == 2
    assert err.startswith("edge-grpo: model.path: cannot load a model from 'nobody/nowhere' (We couldn't connect")
    assert err.count("\n") == 1
    assert "Retry" not in out + err


def test_help_is_help(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "train" in out


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"edge-grpo {__version__}\n", "")


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edge_grpo", "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edge-grpo {__version__}\n", "")


def test_show_config_is_a_configuration(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("show-config", "method=dapo", "train.steps=3")
    assert code == 0
    (tmp_path / "c.yaml").write_text(out)
    assert command("show-config", "c.yaml")[1] == out


def test_methods_lists_every_kind(command: Command) -> None:
    from edge_grpo.methods import METHODS

    code, out, _ = command("methods")
    assert code == 0
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= 80
    for kind, cls in METHODS.items():
        (line,) = [line for line in lines if line.split()[:1] == [kind]]
        assert re.search(r" (arXiv:\d{4}\.\d{5}|TRL 1\.16\.0) ", line), line
        assert cls.__doc__.split()[0] in line
    assert re.search(r"edge_grpo +arXiv:2507\.21848 +Entropy-driven GRPO", out)


def spawn(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "from edge_grpo.cli.main import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=cwd, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and output, with the pipes closed."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        file = folder / "metrics.jsonl"
        if file.exists() and f'"step": {step},' in file.read_text():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.1)
    raise AssertionError("the run did not come so far")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_process_resumes_to_the_same_bytes(model: str, tmp_path: Path, number: signal.Signals) -> None:
    words = [f"model.path={model}", *TINY, "train.steps=12", "train.checkpoint_every=5"]
    whole = spawn("train", *words, "run.dir=whole", cwd=tmp_path)
    assert finish(whole)[0] == 0
    cut = spawn("train", *words, "run.dir=cut", cwd=tmp_path)
    wait_for_step(tmp_path / "cut", 7, cut)
    cut.send_signal(number)
    code, out, err = finish(cut)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + number
        assert "resume with: edge-grpo train --resume cut" in out
    assert "Traceback" not in err
    again = spawn("train", "--resume", "cut", cwd=tmp_path)
    assert finish(again)[0] == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut/final" / name).read_bytes() == (tmp_path / "whole/final" / name).read_bytes()
