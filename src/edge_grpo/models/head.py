"""From hidden states to logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from edge_grpo.base.errors import EngineError
from edge_grpo.models.compute import Compute

__all__ = ["SCALES", "Head"]

SCALES: Final[dict[str, Callable[[float], float]]] = {
    "logits_scaling": lambda value: 1.0 / value,  # Granite divides
    "logit_scale": lambda value: value,  # Cohere multiplies
}
"""Config fields by which some families scale the head's logits, and the factor that each value means."""

SOFT_CAPS: Final = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config fields by which Gemma 2, RecurrentGemma and xLSTM bound their logits: cap * tanh(logits / cap)."""


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: the output embedding, then the family's scaling and soft cap, if any."""

    embed: nn.Module
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, network: PreTrainedModel) -> "Head":
        """The head of a model, with the scaling and soft cap in its configuration."""
        config, scale = network.config.get_text_config(), 1.0
        for name, factor in SCALES.items():
            if value := getattr(config, name, None):
                scale *= factor(float(value))
        cap = next((value for name in SOFT_CAPS if (value := getattr(config, name, None))), None)
        return cls(network.get_output_embeddings(), scale, cap)

    def __call__(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocabulary"]:
        """Logits of the next token."""
        logits: Tensor = self.embed(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits

    def logits(self, hidden: Float[Tensor, "rows dim"], cast: Compute) -> Float[Tensor, "rows vocabulary"]:
        """Logits in the dtype of the hidden states, which is that of ``cast``."""
        if not self.is_plain:
            weight: Tensor = self.embed.weight  # type: ignore[assignment]
            return self(hidden.to(weight.dtype))
        logits = cast.linear(hidden, self.embed.weight)  # type: ignore[arg-type]
        return logits if self.scale == 1 else logits * self.scale

    @property
    def is_plain(self) -> bool:
        """Whether logits are hidden states times a matrix and a number."""
        return not (self.cap or getattr(self.embed, "bias", None) is not None or hasattr(self.embed, "lora_A"))

    def matrix(self, *, temperature: float) -> Float[Tensor, "vocabulary dim"]:
        """The matrix that maps hidden states to logits divided by the temperature; at least float32, detached.

        Raises:
            EngineError: the head is not a plain matrix.
        """
        if not self.is_plain:
            raise EngineError(
                "this model's head has a soft cap, a bias or adapters, which scores computed from hidden states cannot "
                "reproduce; choose a method that does not use them (not nthr)"
            )
        weight: Tensor = self.embed.weight.detach()  # type: ignore[operator]
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return weight * (self.scale / temperature)
