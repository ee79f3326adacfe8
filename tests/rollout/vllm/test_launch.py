import json
import os
import socket
import sys
from pathlib import Path

import pytest
from processes import living, until

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.rollout.vllm.launch import free_port, installed_vllm, running

STUB = Path(__file__).with_name("stub_python.py")


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that has vLLM, for all anyone can tell."""
    script = tmp_path / "venv" / "bin" / "python"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STUB}" "$@"\n')
    script.chmod(0o755)
    return str(script)


def environment(tmp_path: Path, **how: str) -> dict[str, str]:
    return {**os.environ, "VLLM_API_KEY": "key", "STUB_SEEN": str(tmp_path / "seen.json"), **how}


def test_vllm_is_found_in_the_named_environment(python: str) -> None:
    found = installed_vllm(str(Path(python).parents[1]), "auto")
    assert (found.python, found.version, found.device) == (python, "0.32.0", "cpu")
    assert installed_vllm(python, "cpu") == found


def test_vllm_is_found_in_its_usual_folder(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = Path(python).parents[1]
    monkeypatch.chdir(venv.parent)
    venv.rename(".venv-vllm")
    assert installed_vllm("", "auto").python == str(Path(".venv-vllm/bin/python").absolute())


def test_the_build_decides_the_device(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_BUILD", "gpu")
    assert installed_vllm(python, "auto").device == "cuda"
    with pytest.raises(ConfigError, match=r"got cpu, but vLLM 0\.33\.1 in .* is built for cuda"):
        installed_vllm(python, "cpu")


def test_a_missing_vllm_is_one_line_that_says_how_to_get_it(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_BUILD", "none")
    with pytest.raises(ConfigError, match=r"has no vLLM.*make setup-vllm.*pip install.*--python"):
        installed_vllm(python, "auto")
    with pytest.raises(ConfigError, match="no such interpreter: '/nowhere'"):
        installed_vllm("/nowhere", "auto")
    with pytest.raises(ConfigError, match="is not a working Python"):
        installed_vllm("/bin/false", "auto")


def test_a_port_in_use_is_reported_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1, port .*Address already in use.*--port"):
            free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0


def test_a_server_is_ready_once_it_describes_itself_and_ends_with_all_its_children(python: str, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    command = [python, "-m", "vllm", "--port", str(port)]
    log = tmp_path / "logs" / "server.log"
    url = f"http://127.0.0.1:{port}"
    with running(command, environment(tmp_path), url=url, key="key", log=log) as one:
        assert one.wait_until_ready()["max_lora_rank"] == 16
        pids = json.loads((tmp_path / "seen.json").read_text())["pids"]
        assert all(map(living, pids))
    until(lambda: not any(map(living, pids)))
    assert log.exists()


def test_a_server_that_dies_at_the_start_gives_its_reason_and_its_log(python: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [python, "-m", "vllm", "--port", "1"]
    with (
        running(command, environment(tmp_path, STUB="dies"), url="http://127.0.0.1:1", log=log) as one,
        pytest.raises(EngineError, match=r"did not start \(exit code 1\): ValueError: no room; its log is .*\.log"),
    ):
        one.wait_until_ready()


def test_a_server_that_is_killed_later_is_reported(python: str, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    command = [python, "-m", "vllm", "--port", str(port)]
    log = tmp_path / "server.log"
    with running(command, environment(tmp_path), url=f"http://127.0.0.1:{port}", key="key", log=log) as one:
        one.wait_until_ready()
        one.process.kill()
        with pytest.raises(EngineError, match=r"ended \(killed by signal 9, as when memory runs out\); its log is"):
            one.wait()


def test_a_server_that_names_no_error_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", "print('almost there\\n')"]
    with (
        running(command, os.environ, url="http://127.0.0.1:1", log=log) as one,
        pytest.raises(EngineError, match=r"did not start \(exit code 0\): almost there; its log is"),
    ):
        one.wait_until_ready()


def test_a_server_that_ignores_signals_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    log = tmp_path / "server.log"
    with running([sys.executable, "-c", deaf], os.environ, url="", log=log, grace_s=0.2) as one:
        until(log.read_bytes)
    assert one.process.returncode == -9
