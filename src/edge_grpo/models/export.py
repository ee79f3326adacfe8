"""The policy's weights by their Hugging Face names: what a rollout server or any other copy of the model is given."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from edge_grpo.models.adapters import quiet_peft
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal

__all__ = ["exported"]


@torch.no_grad()
def exported(policy: Policy, *, adapters: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that ``save_pretrained`` would write, under the same names; adapters are merged in.

    Of weights that share their memory, such as a tied head, one is left out. The policy is unchanged. Adapters are
    merged layer by layer into copies in CPU memory, which needs room for the adapted layers.

    Args:
        policy: the model; its weights are not copied unless they have adapters.
        adapters: False leaves the adapters out: the frozen weights under them.
    Returns:
        names and detached tensors, in the dtype of the weights.
    """
    network = causal(policy.model)
    weights = dict(_plain_state(network, _merged if adapters else _bare))
    kept = remove_tied_weights_from_state_dict(weights, network)
    yield from revert_weight_conversion(network, kept).items()


def _plain_state(network: nn.Module, plain: Callable[[Any], nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """The state of the model with its adapted layers as ``plain`` makes them, under the names they had before peft."""
    adapted = dict(_adapted_layers(network))
    for name, layer in adapted.items():
        for key, weight in plain(layer).state_dict().items():
            yield f"{name}.{key}", weight.detach()
    prefixes = tuple(f"{name}." for name in adapted)
    for name, weight in network.state_dict().items():
        if not name.startswith(prefixes):
            yield name, weight.detach()


def _adapted_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The outermost layers of peft, by name; those of several parameters of one module are nested."""
    if not any(".lora_" in name for name, _ in network.named_parameters()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - slow to import, only needed with LoRA

    inside = ""
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer) and not (inside and name.startswith(inside)):
            inside = f"{name}."
            yield name, module


def _merged(layer: Any) -> nn.Module:
    """A copy of a layer without its adapters, which are added to its weights."""
    copied = copy.deepcopy(layer)
    with quiet_peft():
        while hasattr(copied, "base_layer"):
            copied.merge()
            copied = copied.base_layer
    return _bare(copied).cpu()


def _bare(layer: Any) -> nn.Module:
    """The layer inside peft's."""
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer
    plain: nn.Module = layer
    return plain
