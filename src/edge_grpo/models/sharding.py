"""Sharded weights: each rank keeps a slice of every weight, gradient and moment; FSDP2 gathers what a pass needs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from edge_grpo.base.errors import EngineError
from edge_grpo.base.world import World
from edge_grpo.models.families import reads_images
from edge_grpo.models.scoring import Scorer, causal

__all__ = ["begin", "check_divided", "full", "local", "shard", "whole"]


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
        EngineError: the model cannot be divided, or a weight was not; or torch is too old.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise EngineError(
            f"distributed.shard: dividing the weights needs torch 2.13, found {torch.__version__}; install that, or "
            "set distributed.shard=none"
        )
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if scorer.autocast else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        "reshard_after_forward": True,
    }
    dense = scorer.dense  # looked at before FSDP adds its hooks
    with _one_line(scorer):
        for layer in _layers(scorer):
            fully_shard(layer, **settings)
        fully_shard(scorer, **settings)
    if dense is not None:
        for number, layer in enumerate(dense.network.model.layers):
            layer.packed = dense.layers[number]
            register_fsdp_forward_method(layer, "packed")  # which gathers the layer's weights before it
            dense.layers[number] = layer.packed
    for module in _sharded(scorer):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no reduction with a factor
    scorer.place = device
    check_divided(scorer)
    for buffer_of in scorer.modules():
        for name, buffer in buffer_of.named_buffers(recurse=False):
            setattr(buffer_of, name, buffer.to(device))


def begin(scorer: Scorer) -> None:
    """Run a pass over two tokens: FSDP takes the first module that runs for the root. All ranks must call it."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=scorer.device)
    second = torch.tensor([[False, True]], device=scorer.device)
    with torch.no_grad(), _one_line(scorer):
        scorer(ids, torch.ones_like(second), second, temperature=1.0)


@contextmanager
def _one_line(scorer: Scorer) -> Iterator[None]:
    """Say what to do about a model that FSDP does not support.

    Raises:
        EngineError: in place of FSDP's own errors. Running out of memory or losing a rank stays what it is.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ValueError | NotImplementedError) or "DTensor" in str(error):
            raise EngineError(
                f"distributed.shard: {type(causal(scorer.model)).__name__} cannot be divided among ranks "
                f"({' '.join(str(error).split())[:300]}); set distributed.shard=none"
            ) from error
        raise


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
    """Inside the block every rank holds all weights, and may run any pass by itself; without gradients.

    A pass may be cut short by an error or a signal, on one rank alone.
    """
    modules = list(_sharded(scorer))
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        if isinstance(scorer, FSDPModule):
            # Reshards, even a layer whose pass was cut short, and forgets the passes: ranks that prefetched by passes
            # of their own would wait for each other for ever.
            scorer.reset_iter_state()
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """A tensor with all its slices; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's slice of a tensor, or all of it if it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (each for each in module.modules() if isinstance(each, FSDPModule))


def _layers(scorer: Scorer) -> list[nn.Module]:
    """The layers that can be divided one by one: those that share no weight with another one (Zamba 2).

    Not those of a vision encoder: a rank whose rows have no pictures would not run them, and the others would wait.
    """
    network = causal(scorer.model)
    layers = list(_stacked(network.get_decoder() if reads_images(network.config) else scorer))
    holders = Counter(id(weight) for layer in layers for weight in layer.parameters())
    return [layer for layer in layers if all(holders[id(weight)] == 1 for weight in layer.parameters())]


def _stacked(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if next(layer.parameters(), None) is not None)
        else:
            yield from _stacked(child)
