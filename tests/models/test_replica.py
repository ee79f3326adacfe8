"""A divided policy in one piece: its weights, and its arithmetic, on the CPU of rank 0."""

from pathlib import Path

import torch
from support import save_tiny

from edge_grpo.base.world import World
from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.loading import load_policy, replica_of
from edge_grpo.models.policy import Policy


class Divided(Policy):
    is_sharded = True


def test_a_copy_has_the_weights_and_the_precision_of_a_policy_on_gpus(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path))
    loaded = load_policy(ModelSettings(path=path))
    policy = Divided(loaded.model, loaded.tokenizer, autocast=True)
    replica = replica_of(policy, World(), ModelSettings(path=path, attention="flash_attention_2"))
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.5)
    copied = replica.refreshed()
    assert copied is not policy
    assert copied.autocast, "weights for a server are written in bf16, and compared as the policy computes"
    weights = dict(copied.trained())
    assert all(torch.equal(weights[name], weight) for name, weight in policy.trained())
    assert replica.refreshed() is copied, "loaded once"
