"""In which precision a model's passes compute: bf16 over float32 master weights where that is fast, or float32."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

import torch
from transformers import PreTrainedModel

from edge_grpo.base.world import World
from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.dense import Dense
from edge_grpo.models.scoring import causal

__all__ = ["LARGE", "base_in_half", "computes_in_half", "fast_for_all", "half_is_fast", "settled"]

LARGE: Final = 2**25
"""Weights from which on passes are mostly matrix products; smaller models stay in float32, and are bit-exact."""

_SIDE, _ROUNDS, _FASTER = 1024, 5, 1.5


@cache
def half_is_fast(kind: str) -> bool:
    """Whether products are at least half as fast again in bf16 as in float32, tried with a short one.

    GPUs and CPUs with AMX or AVX512-BF16 are four times as fast or more; others are slower.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.float32] > _FASTER * seconds[torch.bfloat16]


def fast_for_all(world: World, kind: str) -> Callable[[str], bool]:
    """:func:`half_is_fast` as rank 0 finds it on this kind of device; ranks that each tried might disagree."""
    if world.group is None:
        return half_is_fast
    found = world.first(lambda: half_is_fast(kind))
    return lambda _: found


def settled(model: ModelSettings, dtype: str) -> ModelSettings:
    """The settings with the dtype of passes that ``auto`` turned out to be; unknown dtypes leave them as they are."""
    match dtype:
        case "float32" | "bfloat16" if model.dtype == "auto":
            return replace(model, dtype=dtype)
    return model


def base_in_half(model: ModelSettings, device: torch.device, *, fast: Callable[[str], bool] = half_is_fast) -> bool:
    """Whether the frozen base of adapters is bf16, whatever its size: asked for, or fast on this GPU.

    Adapters are trained in float32 over a base that never changes, which may be loaded in bf16 right away.
    """
    asked = model.dtype == "bfloat16" or (model.dtype == "auto" and device.type == "cuda" and fast("cuda"))
    return model.lora.rank > 0 and asked


def computes_in_half(
    network: PreTrainedModel,
    model: ModelSettings,
    device: torch.device,
    *,
    fast: Callable[[str], bool] = half_is_fast,
) -> bool:
    """Whether passes compute in bf16.

    ``model.dtype=auto`` takes bf16 where this device is fast at it and the model is large enough to gain; on a CPU only
    for the families of :class:`edge_grpo.models.dense.Dense`, because the others gain little there.

    Args:
        network: the model, possibly inside peft's wrapper.
        model: the settings.
        device: where the passes run.
        fast: whether a kind of device is fast at bf16.
    """
    if model.dtype != "auto":
        return model.dtype == "bfloat16"
    if sum(weight.numel() for weight in network.parameters()) < LARGE:
        return False
    return fast(device.type) and (device.type != "cpu" or Dense.supports(causal(network)))


def _seconds(dtype: torch.dtype) -> float:
    """The median time of a product."""
    left, right = (torch.ones((_SIDE, _SIDE), dtype=dtype) for _ in range(2))
    found = []
    for _ in range(_ROUNDS + 1):  # the first one prepares the kernel
        began = time.perf_counter()
        left @ right
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
