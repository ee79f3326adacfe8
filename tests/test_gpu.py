"""GPU-only behaviour: bf16 autocast, gradient checkpointing, bf16 weights, LoRA, resume, ranks and servers there."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import memory
import pytest
import torch
from safetensors.torch import load_file
from small_runs import rollouts, rows
from support import save_tiny

from edge_grpo.config.sections import ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import load_policy
from edge_grpo.training.loop import resume, train

GPUS = torch.cuda.device_count()
SHORT = [
    "train.steps=3",
    "rollout.max_new_tokens=16",
    "rollout.prompts_per_step=4",
    "eval.size=8",
    "eval.every=0",
    "train.mini_batches=2",
]
EXACT = ["model.dtype=float32", "method=grpo", "rollout.temperature=0.8", *SHORT]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("extra", [[], ["model.dtype=bfloat16"], ["model.lora.rank=4"], ["model.dtype=float32"]])
def test_a_run_on_a_gpu(tmp_path: Path, extra: list[str]) -> None:
    model = save_tiny(tmp_path / "model")
    words = ["train.steps=3", "rollout.max_new_tokens=16", "rollout.prompts_per_step=4", "eval.size=8", "eval.every=0"]
    result = train(load_config(None, [f"model.path={model}", *words, *extra, f"run.dir={tmp_path / 'run'}"]))
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm"] > 0 for row in rows[1:])
    assert abs(rows[1]["kl/old"]) < 1e-2
    assert resume(result.folder).steps == 3


@pytest.mark.parametrize("extra", [[], ["model.lora.rank=4"]])
def test_an_unfinished_run_resumes_on_a_gpu(tmp_path: Path, extra: list[str]) -> None:
    words = [f"model.path={save_tiny(tmp_path / 'model')}", *SHORT, *extra, f"run.dir={tmp_path / 'run'}"]
    train(load_config(None, [*words, "train.steps=2"]))
    assert resume(tmp_path / "run", load_config(None, words)).steps == 3


def test_the_bundled_model_learns_on_a_gpu(tmp_path: Path) -> None:
    result = train(load_config(None, ["train.steps=30", "eval.every=0", f"run.dir={tmp_path / 'run'}"]))
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/accuracy"] > rows[0]["eval/accuracy"] + 0.2


def test_recomputed_layers_and_logits_give_the_plain_gradient(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "model"))
    ids = torch.arange(40, device="cuda").reshape(2, 20) + 5
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    gradients = []
    for recompute, at_once in ((True, 600), (False, 2**25)):
        policy = load_policy(ModelSettings(path=model, dtype="float32", gradient_checkpointing=recompute))
        policy.scorer.logits_at_once = at_once  # 600: several pieces of the head
        with policy.training():
            policy.score(ids, torch.ones_like(mask), mask, temperature=1.0).logprobs.sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for _, weight in policy.trained()]))
    assert torch.allclose(*gradients, atol=1e-4, rtol=1e-3)


def test_an_update_takes_the_memory_of_the_formula(tmp_path: Path) -> None:
    shape, rows_of, width = memory.SMOLLM2_135M, 8, 512
    policy = load_policy(ModelSettings(path=str(memory.save_random(tmp_path, shape))))
    ids = torch.arange(rows_of * width, device="cuda").reshape(rows_of, width) % 200
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    torch.cuda.reset_peak_memory_stats()
    with policy.training():
        policy.score(ids, torch.ones_like(mask), mask, temperature=1.0).logprobs.sum().backward()
    passes = shape.activations(rows_of * width, checkpointing=True) + shape.logits
    wanted = 8 * shape.weights + shape.whole + passes  # weights, gradients, and copies in bf16
    assert torch.cuda.max_memory_allocated() == pytest.approx(wanted, rel=0.35)


# --- ranks ------------------------------------------------------------------------------------------------------------


def torchrun(ranks: int, *words: str, where: Path) -> subprocess.CompletedProcess[str]:
    """``edge-grpo WORDS`` on the first GPUs, one rank each; fails unless it ends well."""
    start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "edge_grpo", *words]
    done = subprocess.run([sys.executable, "-m", *start], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final/model.safetensors")


def tokens(folder: Path) -> list[list[int]]:
    """The token ids of every completion."""
    return [
        [token for span in row["spans"] for token in span["token_ids"]] for step in rollouts(folder) for row in step
    ]


def apart(one: Path, other: Path) -> float:
    """The largest difference between two runs' final weights."""
    first, second = weights(one), weights(other)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["distributed.cpu_offload=true"],
        ["distributed.shard=none"],
        ["model.dtype=float32"],
        ["model.dtype=bfloat16"],
        ["model.gradient_checkpointing=false"],
        ["model.lora.rank=4"],
        ["model.lora.rank=4", "distributed.cpu_offload=true"],
        ["method=grpo", "method.beta=0.1"],
        ["method=nthr"],
        ["method=nthr", "distributed.cpu_offload=true"],
    ],
    ids=" ".join,
)
def test_every_gpu_trains_a_share(tmp_path: Path, extra: Sequence[str]) -> None:
    model, run = save_tiny(tmp_path / "model"), tmp_path / "run"
    torchrun(GPUS, "train", f"model.path={model}", *SHORT, *extra, f"run.dir={run}", where=tmp_path)
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3]
    assert all(row["grad_norm"] > 0 for row in rows(run)[1:])
    assert abs(rows(run)[1]["kl/old"]) < 1e-2
    torchrun(GPUS, "train", "--resume", str(run), "train.steps=4", where=tmp_path)
    assert rows(run)[-1]["step"] == 4


def test_a_divided_model_trains_like_a_whole_one(tmp_path: Path) -> None:
    words = ["train", f"model.path={save_tiny(tmp_path / 'model')}", *EXACT]
    one = train(load_config(None, [*words[1:], f"run.dir={tmp_path / 'one'}"])).folder
    for name, extra in {"divided": [], "offloaded": ["distributed.cpu_offload=true"]}.items():
        torchrun(1, *words, *extra, f"run.dir={tmp_path / name}", where=tmp_path)
        assert tokens(tmp_path / name) == tokens(one)
        assert apart(tmp_path / name, one) < 1e-4


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
@pytest.mark.parametrize("extra", [[], ["distributed.shard=none"]], ids=["full", "none"])
def test_two_gpus_train_like_one(tmp_path: Path, extra: list[str]) -> None:
    words = ["train", f"model.path={save_tiny(tmp_path / 'model')}", *EXACT, *extra]
    for ranks in (1, 2):
        torchrun(ranks, *words, f"run.dir={tmp_path / str(ranks)}", where=tmp_path)
    assert tokens(tmp_path / "1") == tokens(tmp_path / "2")
    assert apart(tmp_path / "1", tmp_path / "2") < 1e-4


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_run_moves_between_one_and_two_gpus(tmp_path: Path) -> None:
    words = ["train", f"model.path={save_tiny(tmp_path / 'model')}", *EXACT]
    torchrun(2, *words, f"run.dir={tmp_path / 'run'}", where=tmp_path)
    torchrun(1, "train", "--resume", str(tmp_path / "run"), "train.steps=5", where=tmp_path)
    torchrun(2, "train", "--resume", str(tmp_path / "run"), "train.steps=7", where=tmp_path)
    assert rows(tmp_path / "run")[-1]["step"] == 7


def test_every_gpu_evaluates_a_share(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps({"problem": f"Compute {i}+1.", "answer": i + 1}) + "\n" for i in range(5))
    )
    words = ["eval", "--model", str(model), "--suite", "sums.jsonl", "model.dtype=float32", "rollout.max_new_tokens=8"]
    for ranks in (1, GPUS):
        torchrun(ranks, *words, "--out", f"on-{ranks}", where=tmp_path)
    found = [json.loads((tmp_path / f"on-{ranks}/results.json").read_text()) for ranks in (1, GPUS)]
    assert found[0]["benchmarks"]["sums"]["scores"] == found[1]["benchmarks"]["sums"]["scores"]


def test_more_ranks_than_gpus_are_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edge_grpo", "train", "--processes", str(GPUS + 1), *SHORT]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "start one process per GPU" in done.stderr


# --- a vLLM server ----------------------------------------------------------------------------------------------------


@contextmanager
def served(model: str, port: int, where: Path) -> Iterator[str]:
    """The address of a server of this model."""
    words = [sys.executable, "-m", "edge_grpo", "serve", model, "--port", str(port), "--dtype", "float32"]
    python = os.environ.get("EDGE_GRPO_VLLM_PYTHON", sys.executable)
    server = subprocess.Popen([*words, "--max-model-len", "512", "--python", python], cwd=where)
    try:
        for _ in range(600):
            assert server.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def has_vllm() -> bool:
    """Whether vLLM is in this environment, or in the one that EDGE_GRPO_VLLM_PYTHON names."""
    python = os.environ.get("EDGE_GRPO_VLLM_PYTHON", sys.executable)
    found = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return GPUS > 0 and subprocess.run([python, "-c", found], check=False).returncode == 0


@pytest.mark.skipif(not has_vllm(), reason="no vLLM; EDGE_GRPO_VLLM_PYTHON names another environment")
@pytest.mark.parametrize("ranks", [1, GPUS])
def test_gpus_train_with_a_server(tmp_path: Path, ranks: int) -> None:
    with served("bundled", 8123, tmp_path) as url:
        engine = ["rollout.engine.kind=vllm", f"rollout.engine.urls=[{url}]"]
        torchrun(ranks, "train", *SHORT, *engine, f"run.dir={tmp_path / 'run'}", where=tmp_path)
    found: list[dict[str, Any]] = rows(tmp_path / "run")
    assert all(row["grad_norm"] > 0 for row in found[1:])
