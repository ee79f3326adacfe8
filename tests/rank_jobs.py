"""What tests let every rank do; a rank process imports this module, and not the tests."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import family_policy
from support import padded_rows, tiny_policy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.utils import get_total_norm

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.world import World, join_world
from edge_grpo.config.sections import DistributedSettings, ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models import loading, precision, slices
from edge_grpo.models.loading import recompute_activations
from edge_grpo.models.policy import Policy
from edge_grpo.models.sharding import full
from edge_grpo.trackers.console import Silent
from edge_grpo.training.inputs import agreed
from edge_grpo.training.loop import resume, train

Arrays = dict[str, np.ndarray[Any, Any]]


def resumed(words: Sequence[str]) -> str:
    """Resume the run in ``run.dir`` with some settings; its folder."""
    config = load_config(None, list(words))
    return str(resume(config.run.dir, config).folder)


def opened_trackers(words: Sequence[str]) -> list[str]:
    """Train, and the folders that a tracker was opened in."""
    folders: list[str] = []

    def opened(folder: Path) -> Silent:
        folders.append(folder.name)
        return Silent()

    train(load_config(None, list(words)), trackers=[opened])
    return folders


# --- sharding ---------------------------------------------------------------------------------------------------------


def whole_policy(name: str) -> Policy:
    """A tiny policy: ``tied``, ``untied`` or a family."""
    kinds = {"tied": "qwen2", "untied": "llama"}
    return tiny_policy(kinds[name]) if name in kinds else family_policy(name)


def divided_policy(name: str) -> Policy:
    """The same, with its weights divided among the ranks."""
    policy = whole_policy(name)
    policy.shard(join_world(), device=torch.device("cpu"))
    policy.begin()
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
    if (dense := policy.scorer.dense) is None:
        linear = next(each for each in policy.model.modules() if isinstance(each, nn.Linear))
        linear.register_forward_hook(lambda *_: passes.append(1))
    else:
        block = dense._block

        def counted(parts: Any, x: torch.Tensor, number: int, *more: Any) -> torch.Tensor:
            passes.extend([1] * (number == 0))
            return block(parts, x, number, *more)

        dense._block = counted  # type: ignore[method-assign]
    policy.shard(join_world(), device=torch.device("cpu"))
    policy.begin()
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


def half_by_rank(path: str) -> tuple[str, int]:
    """The dtype of this rank's passes if rank 0 alone finds bf16 fast, and how many undivided weights are left."""
    world = join_world()
    old: list[weakref.ref[torch.Tensor]] = []
    shard = Policy.shard

    def remembered(policy: Policy, *arguments: Any, **settings: Any) -> None:
        old.extend(weakref.ref(weight) for _, weight in policy.trained())
        shard(policy, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "LARGE", 0)
        patch.setattr(precision, "half_is_fast", lambda _: world.is_first)
        patch.setattr(Policy, "shard", remembered)
        policy = loading.load_shared_policy(ModelSettings(path=path), DistributedSettings(), world)
    gc.collect()
    return policy.computes_in, sum(each() is not None for each in old)


def head_matrix(name: str) -> Arrays:
    """The head's matrix at temperature 0.5, and hidden states."""
    policy = divided_policy(name)
    return arrays({"head": policy.head_weight(temperature=0.5), "hidden": policy.hidden_states(*padded_rows())})


def indivisible(why: str) -> None:
    """Divide a model that FSDP refuses: a weight has no dimension (ValueError), or strides (NotImplementedError)."""
    policy = whole_policy("tied")
    weights = {"scalar": torch.tensor(1.0), "strided": torch.ones(4, 4).t()}
    policy.model.register_parameter("scale", nn.Parameter(weights[why]))
    join_world().each(lambda: policy.shard(join_world(), device=torch.device("cpu")))


# --- what ranks agree on ----------------------------------------------------------------------------------------------


def shared(count: int) -> list[tuple[int, int]]:
    """Items with the rank that worked on them."""
    world = join_world()
    return world.share(range(count), lambda own: [(item, world.rank) for item in own])


def gathered() -> tuple[Any, ...]:
    """What each method makes of a rank's number."""
    world = join_world()
    rank, last = world.rank, world.rank == world.size - 1
    tensors = [torch.full((2,), rank + 1.0), torch.tensor([float(rank)])]
    world.add(tensors)
    return (
        world.gather(lambda: 10 * rank),
        world.each(lambda: rank),
        world.first(lambda: f"rank {rank}"),
        world.sum({"all": rank + 1.0} | ({"last": 5.0} if last else {})),
        world.any(last),
        [tensor.tolist() for tensor in tensors],
    )


def failed(way: str, rank: int) -> tuple[str, str, bool]:
    """The error of one rank, or of all for -1, as every rank sees it."""
    world = join_world()

    def work(*_: object) -> list[int]:
        if rank in (-1, world.rank):
            raise ConfigError("no")
        return [0]

    calls = {
        "gather": lambda: world.gather(work),
        "each": lambda: world.each(work),
        "first": lambda: world.first(work),
        "share": lambda: world.share([1, 2], work),
    }
    return _error(calls[way])


class _Strange(Exception):
    """Cannot be made again from its text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def failed_strangely() -> tuple[str, str, bool]:
    """An error that does not survive pickling."""
    world = join_world()

    def work() -> None:
        if world.rank == 1:
            raise _Strange(1, 2)

    return _error(lambda: world.gather(work))


def _error(call: Callable[[], object]) -> tuple[str, str, bool]:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error).__name__, str(error), getattr(error, "shared", False)
    return "", "", False


# --- files ------------------------------------------------------------------------------------------------------------


def divided(values: np.ndarray[Any, Any]) -> DTensor:
    """A tensor in slices, as FSDP divides it."""
    mesh = init_device_mesh("cpu", (join_world().size,))
    return distribute_tensor(torch.from_numpy(values), mesh, [Shard(0)])


def write_slices(folder: str, values: np.ndarray[Any, Any]) -> None:
    """Write a divided tensor and one that every rank has."""
    tensors = {"matrix": divided(values), "step": torch.tensor(3.0)}
    slices.write(Path(folder), {"weights": tensors}, join_world())


def read_slices(folder: str) -> tuple[np.ndarray[Any, Any], float]:
    """Read them."""
    found = {"matrix": divided(np.zeros((5, 3), np.float32)), "step": torch.zeros(())}
    slices.read(Path(folder), found, join_world())
    return full(found["matrix"]).numpy().copy(), float(found["step"])


# --- what ranks are given ---------------------------------------------------------------------------------------------


def trained_differently(words: Sequence[str]) -> None:
    """Start a run with a seed that is another one on each rank."""
    train(load_config(None, [*words, f"train.seed={join_world().rank}"]))


def inputs_of_machines(digests: Sequence[dict[str, str]]) -> dict[str, str]:
    """What ranks that are all on a machine of their own agree on, if each reads inputs with these digests."""
    world = join_world()
    world = replace(world, places=tuple((f"node{rank}", 1) for rank in range(world.size)))
    return agreed(lambda: digests[world.rank], load_config(), world)
