"""What tests let every rank do; a rank process imports this module, and not the tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from families import family_policy
from support import padded_rows, tiny_policy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from edge_grpo.base.world import World, join_world
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import recompute_activations
from edge_grpo.models.policy import Policy
from edge_grpo.models.sharding import full
from edge_grpo.training.loop import resume

Arrays = dict[str, np.ndarray[Any, Any]]


def resumed(words: Sequence[str]) -> str:
    """Resume the run in ``run.dir`` with some settings; its folder."""
    config = load_config(None, list(words))
    return str(resume(config.run.dir, config).folder)


# --- sharding ---------------------------------------------------------------------------------------------------------


def whole_policy(name: str) -> Policy:
    """A tiny policy: ``tied``, ``untied`` or a family."""
    kinds = {"tied": "qwen2", "untied": "llama"}
    return tiny_policy(kinds[name]) if name in kinds else family_policy(name)


def divided_policy(name: str) -> Policy:
    """The same, with its weights divided among the ranks."""
    policy = whole_policy(name)
    policy.shard(join_world(), device=torch.device("cpu"))
    return policy


def arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    """Whole tensors, in a form that processes can exchange."""
    return {name: full(tensor.detach()).numpy().copy() for name, tensor in tensors.items()}


def learn(policy: Policy, world: World = World()) -> Arrays:  # noqa: B008 - frozen
    """The gradients of six rows, of which each rank has its own, and their ``norm``."""
    ids, attention, mask = (torch.cat([column, column.flip(0)]) for column in padded_rows())
    with policy.training():
        for row in range(world.rank, 6, world.size):
            scores = policy.score(ids[row, None], attention[row, None], mask[row, None], temperature=0.7)
            (scores.logprobs.sum() + 0.1 * scores.entropy.sum()).backward()
    found = {name: weight.grad for name, weight in policy.trained() if weight.grad is not None}
    return arrays({**found, "norm": get_total_norm(list(found.values()))})


def divided_gradients(name: str) -> Arrays:
    """:func:`learn` with divided weights."""
    return learn(divided_policy(name), join_world())


def recomputed_gradients(name: str) -> tuple[Arrays, int]:
    """The same with activations recomputed, and how often a layer has run forwards."""
    policy, passes = whole_policy(name), []
    recompute_activations(policy.model)
    linear = next(each for each in policy.model.modules() if isinstance(each, nn.Linear))
    linear.register_forward_hook(lambda *_: passes.append(1))
    policy.shard(join_world(), device=torch.device("cpu"))
    passes.clear()
    return learn(policy, join_world()), len(passes)


def opened_weights(name: str) -> tuple[Arrays, Arrays, Arrays]:
    """Weights inside ``whole()`` and after it, and log-probs that only rank 0 computes inside."""
    policy, world = divided_policy(name), join_world()
    found: dict[str, torch.Tensor] = {}
    try:
        with policy.whole(), torch.no_grad():
            held = {key: weight.detach().clone() for key, weight in policy.trained()}
            assert not any(isinstance(weight, DTensor) for weight in held.values())
            if world.is_first:
                for count in range(2):
                    found[str(count)] = policy.score(*padded_rows(), temperature=1.0).logprobs
            raise InterruptedError
    except InterruptedError:
        assert all(isinstance(weight, DTensor) for _, weight in policy.trained())
    after = arrays(dict(policy.trained()))
    learn(policy, world)
    return arrays(held), after, arrays(found)


def head_matrix(name: str) -> Arrays:
    """The head's matrix at temperature 0.5, and hidden states."""
    policy = divided_policy(name)
    return arrays({"head": policy.head_weight(temperature=0.5), "hidden": policy.hidden_states(*padded_rows())})


def indivisible() -> None:
    """Divide a model that has a weight without a dimension."""
    policy = whole_policy("tied")
    policy.model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    join_world().each(lambda: policy.shard(join_world(), device=torch.device("cpu")))
