"""Scoring as a module's ``forward``: log-probs and entropies of given tokens, without holding all logits at once."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from edge_grpo.base.errors import EngineError
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.models.compute import Compute
from edge_grpo.models.dense import Dense
from edge_grpo.models.families import reads_images
from edge_grpo.models.head import Head
from edge_grpo.models.kernels import head_scores
from edge_grpo.models.packing import Packing
from edge_grpo.models.vision import Inputs

__all__ = ["Scorer", "TokenScores", "causal", "decoder"]

NONE: Final[Inputs] = {}
LOGITS_AT_ONCE: Final = 2**25  # 128 MiB of float32

STANDARD: Final = "use a standard causal model (Qwen, Llama, Mistral, Gemma, ...)"
"""What to do about a model that cannot be used, for messages."""


class TokenScores(NamedTuple):  # FSDP looks for tensors in tuples, not in data classes
    """Log-probability and entropy in nats; ``[i, j]`` is about token j given those before it, 0 outside the mask."""

    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]


def causal(model: Any) -> PreTrainedModel:
    """The causal language model inside peft's wrapper (adapters stay active), or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def decoder(network: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that ends with the hidden states that its head reads.

    Usually ``base_model``; some families (Llama 4) name their modules so that this is the whole model again.

    Raises:
        EngineError: no such part is found.
    """
    candidates = (network.base_model, network.get_decoder(), getattr(network, "model", None))
    for part in candidates:
        if isinstance(part, nn.Module) and part is not network:
            return part
    raise EngineError(f"model.path: {type(network).__name__} has no decoder apart from its head; {STANDARD}")


class Scorer(nn.Module):
    r"""Log-probability and entropy of the masked tokens, with gradient where grad mode is on.

    .. math:: \log\pi_j = \log\operatorname{softmax}(z_{j-1} / T)_{x_j}, \qquad H_j = -\sum_v p_v \log p_v

    The head is applied only to the hidden states before masked tokens, a piece at a time, and recomputed in the
    backward pass, so that memory does not grow with tokens x vocabulary. Families that :class:`Dense` knows are
    computed without padding, and rows with the same prompt share it.

    Args:
        model: the model, possibly wrapped in peft adapters.
        autocast: whether passes compute in bf16 although the weights are float32.
        logits_at_once: how many logits may exist at a time; bounds memory and changes nothing else.
    """

    def __init__(self, model: nn.Module, *, autocast: bool = False, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        super().__init__()
        self.model: Any = model  # a PreTrainedModel, or peft's wrapper around one
        self.autocast = autocast
        self.logits_at_once = logits_at_once
        self.place: torch.device | None = None  # of the passes, where that is not where the weights are

    @cached_property
    def cast(self) -> Compute:
        """Gives weights in the dtype in which passes compute."""
        return Compute(torch.bfloat16 if self.autocast else causal(self.model).dtype)

    @cached_property
    def dense(self) -> Dense | None:
        """The model's layers without padding, if its family is known."""
        network = causal(self.model)
        return Dense(network, self.cast) if Dense.supports(network) else None

    @property
    def device(self) -> torch.device:
        """Where the passes run."""
        device: torch.device = self.place or self.model.device
        return device

    def precision(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in: bf16 autocast or nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    def forward(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        *,
        temperature: float | None,
        inputs: Inputs = NONE,
        pictured: bool = False,
    ) -> TokenScores | Float[Tensor, "masked dim"]:
        """Score the masked tokens, or stop before the head.

        Args:
            input_ids: padded on the right.
            attention: False on padding.
            mask: the tokens to score; column 0 must be False, because nothing precedes it.
            temperature: the rollout's; None asks for hidden states (see :meth:`hidden_states`).
            inputs: what else the model is given, for rows with pictures.
            pictured: whether other passes of this step have pictures; then the weights that see have a gradient here,
                too, if only 0, because ranks must agree on which weights have one.
        Returns:
            nats, float32 (float64 for a float64 model); 0 where the mask is False.
        """
        rows, columns = mask.nonzero(as_tuple=True)
        hidden = self.before(input_ids, attention, mask, inputs)
        if pictured and torch.is_grad_enabled() and not inputs.keys() - {"input_ids"}:
            hidden = hidden + sum(weight.flatten()[0] * 0.0 for weight in self._seeing())
        if temperature is None:
            return hidden
        logprobs, entropy = self._scores(hidden, input_ids[rows, columns], temperature)
        empty = logprobs.new_zeros(mask.shape)
        return TokenScores(
            empty.index_put((rows, columns), logprobs),
            empty.index_put((rows, columns), entropy),
        )

    def _seeing(self) -> Iterator[nn.Parameter]:
        """The trained weights that only passes with pictures use."""
        network = causal(self.model)
        if reads_images(network.config):
            ends = (network.get_decoder(), network.get_input_embeddings(), network.get_output_embeddings())
            known = {id(weight) for part in ends for weight in part.parameters()}
            yield from (each for each in network.parameters() if each.requires_grad and id(each) not in known)

    @property
    def is_packed(self) -> bool:
        """Whether passes compute no padding, and each prompt once."""
        return self.dense is not None and str(causal(self.model).config._attn_implementation) == "sdpa"

    def before(
        self, input_ids: Tensor, attention: Tensor, mask: Tensor, inputs: Inputs = NONE
    ) -> Float[Tensor, "masked dim"]:
        """Hidden states at the position before each masked token, row by row."""
        if self.dense is not None and self.is_packed:
            packing = Packing.of(input_ids, mask)
            if packing.bins:
                return self.dense.hidden(packing)[packing.source]
        return self.padded(input_ids, attention, mask, inputs)

    def padded(
        self, input_ids: Tensor, attention: Tensor, mask: Tensor, inputs: Inputs = NONE
    ) -> Float[Tensor, "masked dim"]:
        """The same as :meth:`before` by the model's own code, padding included."""
        rows, columns = mask.nonzero(as_tuple=True)
        with self.precision():
            return _hidden(causal(self.model), input_ids, attention, inputs)[rows, columns - 1]

    def _scores(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of tokens, from the hidden states before them."""
        network = causal(self.model)
        head, vocabulary = Head.of(network), network.get_output_embeddings().weight.shape[0]
        chunk = max(1, self.logits_at_once // vocabulary)
        if head.is_plain:
            weight = self.cast(head.embed.weight)  # type: ignore[arg-type]
            hidden = hidden.to(weight.dtype)
            return head_scores(hidden, weight, targets, temperature=temperature / head.scale, at_once=chunk)

        def piece(part: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return logprobs_and_entropy(head(part), ids, temperature=temperature)

        recompute = torch.is_grad_enabled() and len(targets) > chunk
        with self.precision():
            pieces = [
                checkpoint(piece, part, ids, use_reentrant=False) if recompute else piece(part, ids)
                for part, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
            ]
        logprobs, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
        return logprobs, entropy

    @torch.no_grad()
    def hidden_states(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        inputs: Inputs = NONE,
    ) -> Float[Tensor, "masked dim"]:
        """The hidden states from which the head predicts each masked token, row by row; at least float32, detached."""
        hidden: Tensor = self(input_ids, attention, mask, temperature=None, inputs=inputs)
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))

    def next_logits(
        self, input_ids: Int[Tensor, "rows tokens"], attention: Bool[Tensor, "rows tokens"], inputs: Inputs = NONE
    ) -> Float[Tensor, "rows vocabulary"]:
        """Raw logits of the token after the last one of each row, padded on the right."""
        network, rows = causal(self.model), torch.arange(len(input_ids), device=self.device)
        with self.precision():
            hidden = _hidden(network, input_ids, attention, inputs)[rows, attention.sum(-1) - 1]
            return Head.of(network)(hidden)

    @contextmanager
    def gradient_mode(self) -> Iterator[None]:
        """The mode for passes with gradient: layers whose activations are recomputed are told that they train.

        All else stays as it is for evaluation: no dropout, router noise or kernel of its own in training.
        """
        recomputed = [module for module in self.model.modules() if getattr(module, "gradient_checkpointing", False)]
        for module in recomputed:
            module.training = True
        try:
            yield
        finally:
            for module in recomputed:
                module.training = False


def _hidden(network: PreTrainedModel, input_ids: Tensor, attention: Tensor, inputs: Inputs) -> Tensor:
    """Hidden states of all tokens, as the head reads them."""
    given = {"input_ids": input_ids, "attention_mask": attention.long(), **inputs}
    output = decoder(network)(**given, use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden
