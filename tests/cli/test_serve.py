import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import living, until
from support import Command

STUB = Path(__file__).parents[1] / "rollout" / "vllm" / "stub_python.py"
TINY = ["method=grpo", "rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=8", "eval.every=0",
        "eval.at_start=false", "data.arithmetic.size=20", "reward.workers=1", "train.steps=1"]  # fmt: skip
Seen = Callable[[], dict[str, object]]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """An environment that plays vLLM in the usual place; returns what its server was started with."""
    script = tmp_path / ".venv-vllm" / "bin" / "python"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STUB}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("STUB_SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setenv("EDGE_GRPO_API_KEY", "secret")
    monkeypatch.setenv("STUB", "once")
    return lambda: json.loads((tmp_path / "seen.json").read_text())  # type: ignore[no-any-return]


def test_it_says_what_is_served_and_how_a_run_uses_it(command: Command, seen: Seen, model: str, tmp_path: Path) -> None:
    code, out, error = command(
        "serve", model, "--port", "0", "--lora", "16", "--max-model-len", "64", "--", "--seed", "5"
    )
    words = seen()["arguments"]
    port = words[words.index("--port") + 1]
    assert f"serving '{model}' in float32: 64 tokens per prompt and completion, 8 rows at once, adapters up to" in out
    assert f"rollout.engine.kind=vllm 'rollout.engine.urls=[http://127.0.0.1:{port}]'\n" in out
    assert words[words.index("--model") + 1] == model
    assert words[-2:] == ["--seed", "5"]
    log = f"runs/serve/{port}.log"
    assert f"its log: {log}" in out
    assert (code, error) == (
        2,
        f"edge-grpo: serve: vLLM ended (exit code 1): OSError: out of paper; its log is {log}\n",
    )
    assert "secret" not in out + (tmp_path / log).read_text() + " ".join(words)


def test_a_run_means_its_final_model_and_a_checkpoint_is_merged(
    command: Command, seen: Seen, model: str, tmp_path: Path
) -> None:
    assert command("train", *TINY, f"model.path={model}", f"run.dir={tmp_path / 'run'}")[0] == 0
    command("serve", str(tmp_path / "run"), "--port", "0")
    arguments = seen()["arguments"]
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / "run" / "final")
    _, out, _ = command("serve", str(tmp_path / "run" / "checkpoints" / "step_000001"), "--port", "0")
    assert "merging" in out
    arguments = seen()["arguments"]
    assert not Path(arguments[arguments.index("--model") + 1]).exists()  # a temporary folder, which has served


def test_another_host_needs_a_key(command: Command, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_GRPO_API_KEY")
    code, _, error = command("serve", "bundled", "--host", "0.0.0.0")
    assert code == 2
    assert "whoever reaches port 8000 there can replace the model's weights; set an API key" in error


def test_mistakes_are_one_line(command: Command, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such folder: 'nowhere'" in command("serve", "nowhere")[2]
    assert "got a second model" in command("serve", "bundled", "other")[2]
    assert "built for cpu" in command("serve", "bundled", "--device", "cuda")[2]
    monkeypatch.setenv("STUB", "dies")
    code, _, error = command("serve", "bundled", "--port", "0")
    assert (code, error.count("\n")) == (2, 1)
    assert "ValueError: no room" in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server_and_its_children(seen: Seen, tmp_path: Path, number: int, code: int) -> None:
    own = {**os.environ, "STUB": "serves"}
    words = [sys.executable, "-m", "edge_grpo", "serve", "bundled", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=own, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        pids = seen()["pids"]
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert "to sample from it" in lines[-1]
    assert (process.returncode, error) == (code, "edge-grpo: stopped\n")
    until(lambda: not any(map(living, pids)))
