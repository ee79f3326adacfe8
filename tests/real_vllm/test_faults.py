"""A server that is restarted or killed: never a sample from other weights, and never a run that is lost."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from processes import until
from real_vllm.comparison import GREEDY, largest_gap, perturb, prompts
from real_vllm.servers import KEY, Make, Server
from small_runs import rows

from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import ServerError

STEPS = 3


def test_a_restarted_server_is_given_the_weights_again(server: Server, make: Make, policy: Policy) -> None:
    said: list[str] = []
    engine = make(server, policy, say=said.append)
    engine.sync(policy, 0)
    perturb(policy, seed=1)
    engine.sync(policy, 1)
    before = engine.sample(prompts(), GREEDY)
    server.stop()
    server.start()
    assert engine.sample(prompts(), GREEDY) == before
    assert any("handed over again" in line for line in said)
    assert largest_gap(engine, policy) < 1e-4


def test_two_runs_on_one_server_never_mix_weights(server: Server, make: Make, policy: Policy) -> None:
    one = make(server, policy)
    one.sync(policy, 0)
    before = one.sample(prompts()[:4], GREEDY)
    perturb(policy, seed=2)
    make(server, policy).sync(policy, 0)
    perturb(policy, seed=2, scale=-0.02)
    assert one.sample(prompts()[:4], GREEDY) == before


def start(server: Server, folder: Path, *words: str) -> "subprocess.Popen[str]":
    """``edge-grpo train``, on the server, in another process."""
    environment = {**os.environ, "EDGE_GRPO_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "edge_grpo", "train", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def settings(server: Server, folder: Path, retries: int) -> list[str]:
    engine = {"kind": "vllm", "urls": f"[{server.url}]", "folder": str(folder), "retries": str(retries)}
    return [
        f"train.steps={STEPS}",
        "train.checkpoint_every=1",
        "eval.every=0",
        "eval.at_start=false",
        "eval.at_end=false",
        "data.arithmetic.size=60",
        f"run.dir={folder / 'run'}",
        *(f"rollout.engine.{name}={value}" for name, value in engine.items()),
    ]


def generating(server: Server) -> bool:
    """Whether it has rows to sample."""
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return any(line.startswith("vllm:num_requests_running") and float(line.split()[-1]) > 0 for line in lines)


def test_a_run_whose_server_is_killed_ends_with_one_line_and_resumes(server: Server, tmp_path: Path) -> None:
    with start(server, tmp_path, *settings(server, tmp_path, retries=1)) as process:
        until((tmp_path / "run" / "checkpoints" / "step_000001").is_dir, timeout_s=300)
        until(lambda: generating(server), timeout_s=60)
        server.kill()
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert server.url in error
    server.start()
    with start(server, tmp_path, "--resume", str(tmp_path / "run")) as process:
        _, error = process.communicate(timeout=400)
    assert (process.returncode, error) == (0, "")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, STEPS + 1))


def test_a_run_waits_for_a_server_that_is_killed_and_restarted_in_the_middle_of_a_step(
    server: Server, tmp_path: Path
) -> None:
    with start(server, tmp_path, *settings(server, tmp_path, retries=8)) as process:
        until((tmp_path / "run" / "checkpoints" / "step_000001").is_dir, timeout_s=300)
        until(lambda: generating(server), timeout_s=60)
        server.kill()
        server.start()
        _, error = process.communicate(timeout=400)
    assert (process.returncode, error) == (0, "")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, STEPS + 1))


def test_the_server_ends_when_the_process_that_started_it_is_killed(server: Server) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    server.process = None
    until(lambda: not answers(server), timeout_s=20)


def answers(server: Server) -> bool:
    try:
        urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
    except OSError:
        return False
    return True


# --- who is let in ----------------------------------------------------------------------------------------------------


def status(server: Server, path: str, **headers: str) -> int:
    request = urllib.request.Request(server.url + path, headers=headers, method="GET")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["/weight_info", "/edge_grpo", "/v1/models", "/is_paused", "/metrics"])
def test_every_route_but_health_wants_the_key(server: Server, path: str) -> None:
    known = {"Authorization": f"Bearer {KEY}"}
    assert status(server, path) == status(server, path, Authorization="Bearer wrong") == 401
    assert status(server, path, **known) == 200
    assert status(server, path, **known, Origin="http://example.com") == 403
    assert status(server, "/health") == 200
    assert status(server, "/collective_rpc", **known) == 403


def test_without_the_key_a_run_says_so(server: Server, make: Make, policy: Policy) -> None:
    with pytest.raises(ServerError, match="wants an API key, and EDGE_GRPO_API_KEY"):
        make(server, policy, key="")
