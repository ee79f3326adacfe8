"""GPU-only behaviour: bf16 autocast, gradient checkpointing, bf16 weights, LoRA, and resume there."""

import json
from pathlib import Path

import pytest
import torch
from support import save_tiny

from edge_grpo.config.sections import ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import load_policy
from edge_grpo.training.loop import resume, train

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
