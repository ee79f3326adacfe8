"""The sizes of a model on which memory depends, and the precision in which it is trained; read without its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.adapters import what_is_adapted
from edge_grpo.models.dense import Dense
from edge_grpo.models.precision import base_in_half, computes_in_half
from edge_grpo.models.scoring import causal
from edge_grpo.models.skeleton import adapted, skeleton

__all__ = ["Precision", "Shape", "measured", "shape_of"]


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: in frozen and trained weights, in passes, and in the folder that is written at the end."""

    frozen: int
    trained: int
    passes: int


@dataclass(frozen=True)
class Shape:
    """A model's sizes: numbers of weights, and widths in numbers.

    ``weights`` are all, adapters included; ``trained`` those that the optimizer updates, in ``num_trained`` tensors.
    ``layer`` is the largest layer, ``outside`` all that is in none; ``projections`` are the matrices of the layers,
    adapters aside, and ``head`` that of the output. ``head_trained``: whether that has a gradient. ``queries`` and
    ``kv`` are the widths of all queries and of all keys. ``packed``: computed by this package's layers, without padding
    and with each prompt once.
    """

    family: str
    packed: bool
    weights: int
    trained: int
    num_trained: int
    layer: int
    outside: int
    projections: int
    head: int
    head_trained: bool
    tied: bool
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    norms_heads: bool
    rank: int
    context: int | None

    @property
    def queries(self) -> int:
        """The width of all queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """The width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def frozen(self) -> int:
        """Weights that are never updated."""
        return self.weights - self.trained


def shape_of(model: ModelSettings, device: torch.device, *, fast: Callable[[str], bool]) -> tuple[Shape, Precision]:
    """The shape of a model with its adapters, and in which precision it is trained.

    Args:
        model: the settings; ``path`` is on this machine.
        device: where the passes run; it need not exist here.
        fast: whether a kind of device is fast at bf16.
    Raises:
        EngineError, ConfigError: as loading the model would.
    """
    network = skeleton(model)
    base = base_in_half(model, device, fast=fast)
    half = base or computes_in_half(network, model, device, fast=fast)
    packed = Dense.supports(network) and str(network.config._attn_implementation) == "sdpa"
    whole = adapted(network, model)
    in_half = half and model.lora.rank > 0
    return measured(whole, packed=packed), Precision(2 if in_half else 4, 4, 2 if half else 4)


def measured(model: Any, *, packed: bool) -> Shape:
    """The shape of a model, possibly inside peft's wrapper and on the meta device."""
    network = causal(model)
    config, found = network.config.get_text_config(), what_is_adapted(model)
    head = network.get_output_embeddings().weight
    layers = _layers(network)
    per_layer = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    matrices = (w for layer in layers for name, w in layer.named_parameters() if w.dim() > 1 and ".lora_" not in name)
    heads = config.num_attention_heads
    return Shape(
        family=type(network).__name__,
        packed=packed,
        weights=found.total,
        trained=found.trainable,
        num_trained=sum(weight.requires_grad for weight in model.parameters()),
        layer=max(per_layer, default=0),
        outside=found.total - sum(per_layer),
        projections=sum(weight.numel() for weight in matrices),
        head=head.numel(),
        head_trained=head.requires_grad,
        tied=head is network.get_input_embeddings().weight,
        hidden=config.hidden_size,
        layers=len(layers),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=_intermediate(config),
        vocabulary=head.shape[0],
        norms_heads=any(name.endswith("q_norm") for name, _ in network.named_modules()),
        rank=found.rank,
        context=getattr(config, "max_position_embeddings", None),
    )


def _intermediate(config: Any) -> int:
    """The width between the two halves of a layer's feed-forward part: of a mixture, that of all active experts."""
    experts = getattr(config, "num_experts_per_tok", None)
    width = getattr(config, "moe_intermediate_size", None) if experts else None
    usual = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(width * experts if width and experts else usual * (experts or 1))


def _layers(network: PreTrainedModel) -> list[nn.Module]:
    """The layers of the text decoder: the longest list of modules in it."""
    lists = [each for each in network.get_decoder().modules() if isinstance(each, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
