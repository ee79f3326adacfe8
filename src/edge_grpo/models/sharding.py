"""Sharded weights: each rank keeps a slice of every weight, gradient and moment; FSDP2 gathers what a pass needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from edge_grpo.base.errors import EngineError
from edge_grpo.base.world import World
from edge_grpo.models.scoring import Scorer

__all__ = ["begin", "full", "local", "shard", "whole"]


def shard(scorer: Scorer, world: World, *, device: torch.device, offload: bool = False) -> None:
    """Divide a model's weights among the ranks, layer by layer, and move this rank's slices to its device.

    Nothing is communicated: a rank may divide its copy before another has loaded one. Call :func:`begin` next.
    Gradients will be summed over the ranks, not averaged: a loss is a share of the step's total.

    Args:
        scorer: the model; the same weights on every rank. Only its ``forward`` may be called from now on, by all ranks
            equally often, except inside :func:`whole`.
        world: the ranks.
        device: where the passes run.
        offload: whether the slices stay in CPU memory between passes.
    Raises:
        EngineError: a weight was not divided.
    """
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if scorer.autocast else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        "reshard_after_forward": True,
    }
    for layer in _layers(scorer):
        fully_shard(layer, **settings)
    fully_shard(scorer, **settings)
    for module in _sharded(scorer):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no reduction with a factor
    scorer.place = device
    if missed := [name for name, weight in scorer.named_parameters() if not isinstance(weight, DTensor)]:
        raise EngineError(
            f"distributed.shard: {len(missed)} weights were not divided ({missed[0]}, ...); set distributed.shard=none"
        )
    for buffer_of in scorer.modules():
        for name, buffer in buffer_of.named_buffers(recurse=False):
            setattr(buffer_of, name, buffer.to(device))


def begin(scorer: Scorer) -> None:
    """Run a pass over two tokens: FSDP takes the first module that runs for the root. All ranks must call it."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=scorer.device)
    second = torch.tensor([[False, True]], device=scorer.device)
    with torch.no_grad():
        scorer(ids, torch.ones_like(second), second, temperature=1.0)


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


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if next(layer.parameters(), None) is not None)
        else:
            yield from _layers(child)
