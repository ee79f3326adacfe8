"""Which class of the library loads a family's checkpoints."""

from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from edge_grpo.base.errors import EngineError

__all__ = ["family_class", "reads_images"]


def family_class(config: PreTrainedConfig) -> Any:
    """The class that loads a model with all that its checkpoint holds: images and text, or text alone.

    Raises:
        EngineError: the family is not causal.
    """
    if reads_images(config):
        return AutoModelForImageTextToText
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):  # the latter: code of its own
        return AutoModelForCausalLM
    raise EngineError(f"'{config.model_type}' is not a causal language model")


def reads_images(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration reads images, as far as the library knows."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and hasattr(config, "vision_config")
