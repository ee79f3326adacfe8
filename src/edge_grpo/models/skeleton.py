"""A model's modules without its weights, for what can be counted before they are loaded."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import cached_file

from edge_grpo.base.errors import EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.adapters import add_adapters
from edge_grpo.models.families import family_class
from edge_grpo.models.sources import resolve, source_of

__all__ = ["adapted", "on_disk", "skeleton"]

_CONFIGS = ("config.json", "adapter_config.json")


def on_disk(model: ModelSettings) -> ModelSettings:
    """The settings with the folder of a hub model that was downloaded before; nothing is downloaded.

    Raises:
        EngineError: the model is not on this machine.
    """
    place = resolve(model.path)
    if Path(place).is_dir():
        return model
    for name in _CONFIGS:
        with suppress(OSError, ValueError), quiet_failures():
            if found := cached_file(place, name, local_files_only=True):
                return replace(model, path=str(Path(found).parent))
    raise EngineError(
        f"model.path: '{model.path}' is not on this machine, and a plan downloads nothing; download it "
        f"(`hf download {model.path}`), or give a folder"
    )


def skeleton(model: ModelSettings) -> PreTrainedModel:
    """The network that a model's settings name, on PyTorch's meta device: shapes, and no numbers.

    Args:
        model: the settings; ``path`` is on this machine (see :func:`on_disk`). LoRA is left out.
    Raises:
        EngineError: no readable configuration, or a family that cannot be trained.
    """
    place = source_of(model).base.place
    attention = {} if model.attention == "auto" else {"attn_implementation": model.attention}
    try:
        with quiet_failures(), torch.device("meta"):
            config = AutoConfig.from_pretrained(place, trust_remote_code=model.trust_remote_code, local_files_only=True)
            network: PreTrainedModel = family_class(config).from_config(
                config, trust_remote_code=model.trust_remote_code, dtype=torch.float32, **attention
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise EngineError(f"model.path: cannot read the configuration of '{model.path}' ({reason})") from error
    return network


def adapted(network: PreTrainedModel, model: ModelSettings) -> Any:
    """The network with the adapters of ``model.lora``, or the network itself without any; changes its argument.

    Raises:
        ConfigError: no layer matches ``lora.targets``.
    """
    if not model.lora.rank:
        return network
    with torch.device("meta"):
        return add_adapters(network, model.lora, 0, base="")
