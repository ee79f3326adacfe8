"""LoRA through peft: which weights a run adapts, by name; tied weights; merging; and what was adapted, in one line."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.rng import derive_seed
from edge_grpo.config.sections import LoraSettings
from edge_grpo.models.probe import restored_rng

__all__ = [
    "Adapted",
    "add_adapters",
    "check_reached",
    "describe",
    "listed",
    "merged",
    "quiet_peft",
    "untie",
    "what_is_adapted",
]

ALL_LINEAR: Final = "all-linear"
_LAYERS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # what peft can wrap
_BEFORE_FUSION: Final = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("w2",),),
}
"""What the fused weights of a mixture's experts are called in its papers and in older releases of its code."""

_RENAMED: Final = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names that peft takes for those of experts in a mixture, wherever the layer is."""


@dataclass(frozen=True)
class Adapted:
    """What a run trains: with LoRA, the number of adapted weights by kind, and of linear weights left without.

    ``kinds`` and ``frozen`` are empty, and ``rank`` 0, if all weights are trained.
    """

    rank: int
    kinds: Mapping[str, int]
    frozen: Mapping[str, int]
    trainable: int
    total: int


@dataclass(frozen=True)
class _Weights:
    """What LoRA could adapt in a model: layers and single parameters by full name, and which of them are linear.

    ``bypassed``: layers whose weights fused kernels read directly, past an adapter.
    """

    layers: Mapping[str, nn.Module]
    parameters: frozenset[str]
    linear: frozenset[str]
    bypassed: frozenset[str]

    @property
    def names(self) -> list[str]:
        """All full names."""
        return [*self.layers, *sorted(self.parameters)]


def add_adapters(network: PreTrainedModel, lora: LoraSettings, seed: int, *, base: str) -> Any:
    """Wrap a model in peft adapters; every target is matched, or rejected by name.

    A head and embeddings that share their weights are untied first if one of them is a target.

    Args:
        network: the model; changed in place.
        lora: rank, scale and targets.
        seed: seed of the adapters' initial weights.
        base: where the model comes from, as the adapter's configuration names it.
    Raises:
        ConfigError: a target matches nothing, something that LoRA cannot adapt, or weights shared with another layer.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - slow to import, only needed with LoRA

    found = _weights_of(network)
    wanted = _matched(network, found, lora.targets)
    experts = any(name.rpartition(".")[0] not in found.layers for name in found.parameters)
    layers = {name for name in wanted if name in found.layers and _is_plain(name, found.layers[name], experts)}
    parameters = {name if name in found.parameters else f"{name}.weight" for name in wanted - layers}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_shortest(layers, [name for name, _ in network.named_modules()], 1),
        target_parameters=_shortest(parameters, [name for name, _ in network.named_parameters()], 2) or None,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    try:
        with restored_rng(), quiet_peft():  # peft draws from the global generator
            torch.manual_seed(derive_seed(seed, "lora"))
            model: Any = get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets: {' '.join(str(error).split())}") from error
    if missing := (layers | parameters) - _adapted_names(model):
        raise ConfigError(f"model.lora.targets: peft cannot adapt {listed(sorted(missing))}; leave them out")
    model.peft_config["default"].base_model_name_or_path = base
    untie(network)
    return model


@torch.no_grad()
def check_reached(model: Any) -> None:
    """Run a few tokens through a model in peft's wrapper, to see that every adapter is used.

    Raises:
        ConfigError: one is not: the model's code reads that layer's weights directly, or does not run it on text.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - slow to import, only needed with LoRA

    unused = {id(each): name for name, each in model.named_modules() if isinstance(each, BaseTunerLayer)}

    def note(module: nn.Module, *_: object) -> None:
        unused.pop(id(module), None)

    hooks = [each.register_forward_hook(note) for each in model.modules() if id(each) in unused]
    model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    if unused:
        names = sorted(_plain_name(name.removeprefix("base_model.model.")) for name in unused.values())
        raise ConfigError(
            f"model.lora.targets: adapters on {listed(names)} would have no effect, because this model's code does not "
            "run these layers on text or reads their weights directly; leave them out"
        )


def untie(network: PreTrainedModel) -> None:
    """Give the head its own copy of the embeddings' weights if they are shared and either has an adapter.

    Otherwise merging the adapter of one would change the other, which was trained without it.

    Raises:
        ConfigError: the model's code ties them whatever its configuration says.
    """
    ends = (network.get_input_embeddings(), network.get_output_embeddings())
    embed, head = (each.get_base_layer() if hasattr(each, "get_base_layer") else each for each in ends)
    if head is None or head.weight is not embed.weight or (embed, head) == ends:
        return
    configs = (network.config, network.config.get_text_config())
    for config in configs:
        config.tie_word_embeddings = False
    with torch.device("meta"):
        other = type(network)(network.config)
    if other.get_output_embeddings().weight is other.get_input_embeddings().weight:
        raise ConfigError(
            f"model.lora.targets: in {type(network).__name__} the head always shares its weights with the "
            "embeddings, so neither can be adapted alone; leave them out"
        )
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def merged(model: Any) -> PreTrainedModel:
    """The plain model inside peft's wrapper, with the adapters added to its weights; the wrapper is used up."""
    untie(model.get_base_model())
    with quiet_peft():
        plain: PreTrainedModel = model.merge_and_unload()
    return plain


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide peft's warnings: its use of deprecated names, and faults that this package checks for by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", module=r"peft\.")
        yield


def what_is_adapted(model: Any) -> Adapted:
    """What is trained in a model, possibly inside peft's wrapper."""
    weights = list(model.parameters())
    trainable, total = (sum(w.numel() for w in some) for some in ([w for w in weights if w.requires_grad], weights))
    if not hasattr(model, "peft_config"):
        return Adapted(0, {}, {}, trainable, total)
    adapted = {name.removesuffix(".weight") for name in _adapted_names(model)}
    linear = {_plain_name(name) for name in _weights_of(model.get_base_model()).linear if ".lora_" not in name}
    kinds, frozen = (Counter(map(_kind, sorted(names))) for names in (adapted, linear - adapted))
    return Adapted(model.peft_config["default"].r, dict(kinds), dict(frozen), trainable, total)


def describe(adapted: Adapted) -> str:
    """What is trained, for the user."""
    if adapted.trainable == adapted.total:
        return f"all {adapted.total:,} parameters"
    share = f"{adapted.trainable:,} of {adapted.total:,} parameters ({adapted.trainable / adapted.total:.2%})"
    if not adapted.rank:
        return share
    kinds, frozen = (
        ", ".join(f"{count} {kind}" for kind, count in some.items()) for some in (adapted.kinds, adapted.frozen)
    )
    line = f"LoRA of rank {adapted.rank} on {kinds}, {share}"
    return f"{line}; linear weights left frozen: {frozen}" if frozen else line


# --- which weights ----------------------------------------------------------------------------------------------------


def _weights_of(network: PreTrainedModel) -> _Weights:
    """What LoRA could adapt in the text decoder. Linear: the weights of linear layers, routers and experts."""
    head = network.get_output_embeddings()
    inside = {id(module) for module in network.get_decoder().modules()}
    inside |= {id(head), id(network.get_input_embeddings())}
    layers: dict[str, nn.Module] = {}
    parameters: set[str] = set()
    for name, module in network.named_modules():
        if id(module) not in inside:
            continue
        if isinstance(module, _LAYERS):
            layers[name] = module
        elif not type(module).__module__.startswith(("torch.", "peft.")):
            own = module.named_parameters(recurse=False)
            parameters |= {f"{name}.{key}" for key, weight in own if _multiplies(module, key, weight)}
    linear = {
        name for name, module in layers.items() if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    } | parameters
    mixers = [name for name, module in network.named_modules() if "mamba" in type(module).__name__.lower()]
    bypassed = {f"{name}.{own}" for name in mixers for own in ("conv1d", "dt_proj", "out_proj", "x_proj")}
    return _Weights(layers, frozenset(parameters), frozenset(linear), frozenset(bypassed & layers.keys()))


def _multiplies(module: nn.Module, name: str, weight: nn.Parameter) -> bool:
    """Whether a parameter outside of any layer holds the matrices of a mixture's experts, or of its router."""
    if weight.dim() == 3:
        return weight.shape[0] > 1 and "expert" in type(module).__name__.lower()
    return weight.dim() == 2 and name == "weight" and type(module).__name__.endswith(("Router", "Gate"))


def _is_plain(name: str, layer: nn.Module, experts: bool) -> bool:
    """Whether peft wraps this layer as it is; others are adapted through their weight.

    It cannot wrap layers with a forward of their own (Llama 4's router), and in a mixture it looks for layers named
    like experts among the experts only.
    """
    if isinstance(layer, nn.Linear) and type(layer).forward is not nn.Linear.forward:
        return False
    return not (experts and name.rpartition(".")[2] in _RENAMED)


def _matched(network: PreTrainedModel, found: _Weights, targets: Sequence[str]) -> set[str]:
    """The full names of the weights that the targets mean; raises ConfigError if one means none."""
    shared = _shared(network)
    wanted: set[str] = set()
    for target in targets or (ALL_LINEAR,):
        every = target == ALL_LINEAR
        wanted |= found.linear - found.bypassed - shared.keys() if every else _meant(network, found, target, targets)
    if bad := sorted(wanted & found.bypassed):
        raise ConfigError(
            f"model.lora.targets: fused kernels read the weights of {bad[0]} directly, past an adapter; leave it out"
        )
    if bad := sorted(name for name in wanted if name in shared):
        raise ConfigError(
            f"model.lora.targets: {bad[0]} shares its weights with {shared[bad[0]]}, so it cannot be adapted alone; "
            "leave it out"
        )
    return wanted


def _meant(network: PreTrainedModel, found: _Weights, target: str, targets: Sequence[str]) -> set[str]:
    """The full names of the weights that one target means: a regular expression, or the end of their names."""
    if re.search(r"[^\w.\-]", target):
        try:
            names = {name for name in found.names if re.fullmatch(target, name)}
        except re.error as error:
            raise ConfigError(f"model.lora.targets: '{target}' is not a regular expression ({error})") from None
    else:
        names = {name for name in found.names if _ends_with(name, target)}
        names |= {name for name in found.parameters if _ends_with(name.rpartition(".")[0], target)}
        names |= {name for name in found.parameters if _was_called(name, target, targets)}
    if names:
        return names
    if others := [module for name, module in network.named_modules() if _ends_with(name, target)]:
        raise ConfigError(
            f"model.lora.targets: '{target}' is a {type(others[0]).__name__} that LoRA cannot adapt, or that does not "
            f"see text; name linear layers or embeddings: {listed(_kinds(found), 12)}"
        )
    kinds = {kind.lower(): kind for kind in _kinds(found)}
    close = get_close_matches(target.lower(), kinds, n=1)
    hint = f"; did you mean '{kinds[close[0]]}'?" if close else ""
    raise ConfigError(
        f"model.lora.targets: '{target}' matches nothing in this model (it has {listed(_kinds(found), 12)}){hint}"
    )


def _was_called(name: str, target: str, targets: Sequence[str]) -> bool:
    """Whether a target is what a weight of fused experts was called before; raises ConfigError for half of one."""
    for old in _BEFORE_FUSION.get(name.rpartition(".")[2], ()):
        if target in old:
            if missing := [each for each in old if each not in targets]:
                raise ConfigError(
                    f"model.lora.targets: this model holds {' and '.join(old)} of its experts in one weight, "
                    f"{_kind(name)}; name {' and '.join(missing)} too, or {_kind(name)} alone"
                )
            return True
    return False


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _shared(network: PreTrainedModel) -> dict[str, str]:
    """Layers whose weights another layer shares, and the other's name; not head and embeddings, which can be untied."""
    ends = (network.get_input_embeddings(), network.get_output_embeddings())
    tied = {id(each.weight) for each in ends if each is not None}
    names: dict[int, list[str]] = {}
    for name, weight in network.named_parameters(remove_duplicate=False):
        if id(weight) not in tied:
            names.setdefault(id(weight), []).append(name.removesuffix(".weight"))
    groups = [group for group in names.values() if len(group) > 1]
    modules = dict(network.named_modules(remove_duplicate=False))
    return {
        one: other
        for group in groups
        for one in group
        for other in group
        if other != one and modules.get(one) is not modules.get(other)
    }


def _shortest(wanted: Iterable[str], every: Sequence[str], parts: int) -> list[str]:
    """The last parts of the names if they mean these alone, else the full names."""
    names = sorted(wanted)
    short = sorted({".".join(name.split(".")[-parts:]) for name in names})
    alike = {name for name in every if any(_ends_with(name, each) for each in short)}
    return short if alike == set(names) else names


def _adapted_names(model: Any) -> set[str]:
    """Full names of the layers and parameters that have adapters."""
    return {*model.base_model.targeted_module_names, *model.base_model.targeted_parameter_names}


def _plain_name(name: str) -> str:
    return name.replace(".base_layer", "").removesuffix(".weight")


def _kinds(found: _Weights) -> list[str]:
    return list(dict.fromkeys(_kind(name) for name in found.names))


def _kind(name: str) -> str:
    """The last part of a name, with ``experts`` before it where that is the one before."""
    parts = name.removesuffix(".weight").split(".")
    return ".".join(parts[-2:] if len(parts) > 1 and parts[-2] == "experts" else parts[-1:])


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
