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

__all__ = ["family_class"]


def family_class(config: PreTrainedConfig) -> Any:
    """The class that loads a model for text: the causal one, or the multimodal one where a family has no other.

    Raises:
        EngineError: the family is not causal.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):  # the latter: code of its own
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise EngineError(f"'{config.model_type}' is not a causal language model")
