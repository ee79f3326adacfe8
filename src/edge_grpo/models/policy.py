"""The policy: log-probs and entropy of given tokens without ever holding all logits."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edge_grpo.base.errors import EngineError
from edge_grpo.functional.logits import logprobs_and_entropy

__all__ = ["Policy", "TokenScores", "causal"]

_LOGITS_AT_ONCE = 2**25  # 128 MiB of float32


@dataclass(frozen=True)
class TokenScores:
    """Log-probability and entropy in nats; ``[i, j]`` is about token j given those before it, 0 off the mask."""

    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]


class Policy:
    """A causal language model with its tokenizer, able to score tokens and to stand in for its own reference.

    Args:
        model: the model, wrapped in peft adapters where LoRA is on.
        tokenizer: its tokenizer; never used between sampling and the loss.
        reference: a frozen copy of the starting weights, if a method wants one and LoRA is off.
        autocast: whether forward passes run under bf16 autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: PreTrainedModel | None = None,
        autocast: bool = False,
    ) -> None:
        self.model: Any = model  # a PreTrainedModel, or peft's wrapper around one
        self.tokenizer = tokenizer
        self.reference = reference
        self.autocast = autocast
        with self.precision():
            _check_head(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def has_adapters(self) -> bool:
        """Whether the trained weights are LoRA adapters."""
        return hasattr(self.model, "peft_config")

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimizer changes, in the model's order."""
        return ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)

    def precision(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in: bf16 autocast or nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    def score(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        *,
        temperature: float,
    ) -> TokenScores:
        r"""Log-probability and entropy of the masked tokens under the policy, with gradient where grad mode is on.

        .. math:: \log\pi_j = \log\operatorname{softmax}(z_{j-1} / T)_{x_j}, \qquad H_j = -\sum_v p_v \log p_v

        The head is applied to the hidden states before masked tokens alone, some thousand at a time, and (unless one
        piece holds them all) recomputed in the backward pass, so that memory does not grow with tokens x vocabulary.

        Args:
            input_ids: padded on the right.
            attention: False on padding.
            mask: the tokens wanted; column 0 must be False, because nothing precedes it.
            temperature: the rollout's.
        Returns:
            nats, float32 (float64 for a float64 model); 0 where the mask is False.
        """
        return _score(self.model, input_ids, attention, mask, temperature, self.precision())

    def score_reference(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        *,
        temperature: float,
    ) -> Float[Tensor, "rows tokens"]:
        """The same log-probs under the reference: the frozen copy, or the base model with adapters switched off.

        Raises:
            EngineError: the policy was loaded without a reference.
        """
        if self.reference is not None:
            return _score(self.reference, input_ids, attention, mask, temperature, self.precision()).logprobs
        if not self.has_adapters:
            raise EngineError("no reference model was loaded, but the method asks for its log-probs")
        with self.model.disable_adapter():
            return self.score(input_ids, attention, mask, temperature=temperature).logprobs

    def hidden_states(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
    ) -> Float[Tensor, "masked dim"]:
        """The states that the head sees before each masked token, row by row, float32 at least; no gradient."""
        with torch.no_grad(), self.precision():
            hidden, _ = _hidden_before(causal(self.model), input_ids, attention, mask)
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))

    def head_weight(self, *, temperature: float) -> Float[Tensor, "vocab dim"]:
        """The matrix that takes hidden states to logits over the temperature.

        Raises:
            EngineError: the head is more than a matrix.
        """
        network = causal(self.model)
        head, config = network.get_output_embeddings(), network.config.get_text_config()
        more = getattr(config, "final_logit_softcapping", None) or hasattr(head, "lora_A")
        if more or getattr(head, "bias", None) is not None:
            raise EngineError(
                f"{type(network).__name__} puts a cap, a bias or adapters on its head, which scores from hidden states "
                "do not know; train it with a method that needs none (not nthr)"
            )
        weight = head.weight.detach().to(torch.promote_types(head.weight.dtype, torch.float32))
        scaled: Tensor = weight * (_scaling(config) / temperature)
        return scaled

    @contextmanager
    def training(self) -> Iterator[None]:
        """The mode for passes with gradient: gradient checkpointing works in training mode only. No dropout is left."""
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder; adapters are merged in, and kept beside in ``adapter/``."""
        model = self.model
        if self.has_adapters:
            device = self.device
            model.save_pretrained(folder / "adapter")
            model = copy.deepcopy(model.to("cpu")).merge_and_unload()  # no room for two on a GPU
            self.model.to(device)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _score(
    model: nn.Module,
    input_ids: Tensor,
    attention: Tensor,
    mask: Tensor,
    temperature: float,
    precision: AbstractContextManager[Any],
) -> TokenScores:
    network = causal(model)
    with precision:
        hidden, (rows, columns) = _hidden_before(network, input_ids, attention, mask)
        head = _head(network)
        targets = input_ids[rows, columns]
        chunk = max(1, _LOGITS_AT_ONCE // network.get_output_embeddings().weight.shape[0])

        def piece(part: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return logprobs_and_entropy(head(part), ids, temperature=temperature)

        recompute = torch.is_grad_enabled() and len(targets) > chunk
        pieces = [
            checkpoint(piece, part, ids, use_reentrant=False) if recompute else piece(part, ids)
            for part, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
    logprobs, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
    empty = logprobs.new_zeros(mask.shape)
    return TokenScores(
        empty.index_put((rows, columns), logprobs),
        empty.index_put((rows, columns), entropy),
    )


def _hidden_before(
    network: PreTrainedModel, input_ids: Tensor, attention: Tensor, mask: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Hidden states at the position before each masked token, and the tokens' rows and columns."""
    rows, columns = mask.nonzero(as_tuple=True)
    output = network.base_model(input_ids=input_ids, attention_mask=attention.long(), use_cache=False)
    return output.last_hidden_state[rows, columns - 1], (rows, columns)


def causal(model: Any) -> PreTrainedModel:
    """The causal language model inside peft's wrapper (adapters stay active), or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def _head(network: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits, with the scalings that some families put behind the head."""
    config = network.config.get_text_config()
    embed = network.get_output_embeddings()
    scaling = _scaling(config)
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    def head(hidden: Tensor) -> Tensor:
        logits = embed(hidden)
        if scaling != 1.0:
            logits = logits * scaling
        capped: Tensor = torch.tanh(logits / cap) * cap if cap else logits
        return capped

    return head


def _scaling(config: Any) -> float:
    """What the logits of some families are multiplied by."""
    divide = getattr(config, "logits_scaling", None) or 1.0  # Granite
    multiply = getattr(config, "logit_scale", None) or 1.0  # Cohere
    return float(multiply / divide)


@torch.no_grad()
def _check_head(model: Any) -> None:
    """Refuse a model whose logits are not its head applied to its hidden states: scores would be silently wrong."""
    network = causal(model)
    ids = torch.arange(4, device=model.device)[None]
    hidden = network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours, theirs = _head(network)(hidden), network(input_ids=ids, use_cache=False).logits
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), atol=1e-2, rtol=1e-2):
        raise EngineError(
            f"{type(network).__name__} computes its logits in a way that this version does not know; "
            "use a model of a plain causal family (Qwen, Llama, Mistral, Gemma, ...)"
        )
