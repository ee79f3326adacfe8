"""Sharded weights: each rank keeps a slice of every weight, gradient and moment; FSDP2 gathers what a pass needs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from edge_grpo.base.errors import EngineError
from edge_grpo.base.world import World
from edge_grpo.models.scoring import Scorer, causal

__all__ = ["check_divided", "full", "local", "shard", "whole"]


def shard(scorer: Scorer, world: World, *, device: torch.device, offload: bool = False) -> None:
    """Divide a model's weights among the ranks, layer by layer, and move this rank's slices to its device.

    Afterwards gradients are summed over the ranks, not averaged: a loss is a share of the step's total.

    Args:
        scorer: the model; the same weights on every rank. Only its ``forward`` may be called from now on, by all ranks
            equally often, except inside :func:`whole`.
        world: the ranks.
        device: where the passes run.
        offload: whether the slices stay in CPU memory between passes.
    Raises:
        EngineError: the model cannot be divided, or a weight was not.
    """
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if scorer.autocast else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        "reshard_after_forward": True,
    }
    with _one_line(scorer):
        stacks = _stacks(scorer)
        for layer in chain(*stacks):
            fully_shard(layer, **settings)
        fully_shard(scorer, **settings)
    _link(scorer, stacks)
    for module in _sharded(scorer):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no reduction with a factor
    scorer.place = device
    check_divided(scorer)
    for buffer_of in scorer.modules():
        for name, buffer in buffer_of.named_buffers(recurse=False):
            setattr(buffer_of, name, buffer.to(device))
    ids, second = torch.zeros((1, 2), dtype=torch.long, device=device), torch.tensor([[False, True]], device=device)
    with torch.no_grad(), _one_line(scorer):  # FSDP takes the first module that runs for the root
        scorer(ids, torch.ones_like(second), second, temperature=1.0)


@contextmanager
def _one_line(scorer: Scorer) -> Iterator[None]:
    """Say what to do about a model that FSDP does not support."""
    try:
        yield
    except (ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DTensor" not in str(error):  # out of memory, or a lost rank
            raise
        raise EngineError(
            f"distributed.shard: {type(causal(scorer.model)).__name__} cannot be divided among ranks "
            f"({' '.join(str(error).split())[:300]}); set distributed.shard=none"
        ) from error


def check_divided(scorer: nn.Module) -> None:
    """Make sure that every weight is divided: otherwise each rank would train its own.

    Raises:
        EngineError: a weight is not.
    """
    if missed := [name for name, weight in scorer.named_parameters() if not isinstance(weight, DTensor)]:
        raise EngineError(
            f"distributed.shard: {len(missed)} weights were not divided ({missed[0]}, ...); set distributed.shard=none"
        )


@contextmanager
def whole(scorer: nn.Module) -> Iterator[None]:
    """Inside the block every rank holds all weights, and may run any pass by itself; without gradients."""
    modules = list(_sharded(scorer))
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """A tensor with all its slices; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's slice of a tensor, or all of it if it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (each for each in module.modules() if isinstance(each, FSDPModule))


def _stacks(module: nn.Module) -> list[list[Any]]:
    """The outermost lists of layers, without layers that share a weight with another one (Zamba 2)."""
    stacks = [[layer for layer in found if next(layer.parameters(), None) is not None] for found in _lists(module)]
    holders = Counter(id(weight) for layer in chain(*stacks) for weight in layer.parameters())
    alone = ([each for each in stack if all(holders[id(w)] == 1 for w in each.parameters())] for stack in stacks)
    return [stack for stack in alone if stack]


def _lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _lists(child)


def _link(scorer: Any, stacks: list[list[Any]]) -> None:
    """Let a backward pass gather the layer below while it is in a layer; a lowest one has only itself.

    By default FSDP gathers what ran before, sampling included. Ranks sample unequally much: they would wait for each
    other for ever.
    """
    for stack in stacks:
        for below, layer in zip([stack[0], *stack], stack, strict=False):
            layer.set_modules_to_backward_prefetch([below])
    scorer.set_modules_to_backward_prefetch([stacks[-1][-1] if stacks else scorer])
