"""The policy: the model that is trained, its tokenizer, its frozen reference, and how it is saved."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edge_grpo.base.errors import EngineError
from edge_grpo.base.records import Scene
from edge_grpo.base.world import World
from edge_grpo.models import sharding
from edge_grpo.models.adapters import Adapted, what_is_adapted
from edge_grpo.models.head import Head
from edge_grpo.models.probe import check
from edge_grpo.models.saving import save
from edge_grpo.models.scoring import Scorer, TokenScores, causal
from edge_grpo.models.vision import ModelVision

__all__ = ["Policy"]

Scenes = Sequence[Scene | None]


class Policy:
    """A causal language model with its tokenizer; scores tokens, and may act as its own reference.

    Args:
        model: the model, wrapped in peft adapters where LoRA is on.
        tokenizer: its tokenizer; never used between sampling and the loss.
        reference: a frozen copy of the starting weights, if a method needs one and LoRA is off.
        autocast: whether passes compute in bf16 although the trained weights are float32.
        save_dtype: of the weights that :meth:`save` writes; None = that of the weights now.
        vision: reads pictures; None = the model does not.
    Raises:
        EngineError: the model cannot be scored (see :mod:`edge_grpo.models.probe`).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: PreTrainedModel | None = None,
        autocast: bool = False,
        save_dtype: torch.dtype | None = None,
        vision: ModelVision | None = None,
    ) -> None:
        self.scorer = Scorer(model, autocast=autocast)
        self.save_dtype = save_dtype or causal(model).dtype
        self.reference = None if reference is None else Scorer(reference, autocast=autocast)
        self.tokenizer, self.vision = tokenizer, vision
        check(self.scorer)
        if self.reference is not None and self.scorer.dense is None:
            self.reference.dense = None

    @property
    def model(self) -> Any:
        """The model that is trained: a PreTrainedModel, or peft's wrapper around one."""
        return self.scorer.model

    @property
    def device(self) -> torch.device:
        """Where the passes run."""
        return self.scorer.device

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only slices of the weights."""
        return isinstance(self.scorer, FSDPModule)

    def shard(self, world: World, *, device: torch.device, offload: bool = False) -> None:
        """Divide the weights, and those of the reference, among the ranks (:func:`edge_grpo.models.sharding.shard`)."""
        for scorer in self._scorers:
            sharding.shard(scorer, world, device=device, offload=offload)

    def begin(self) -> None:
        """Make divided weights ready for use (:func:`edge_grpo.models.sharding.begin`); all ranks must call it."""
        for scorer in self._scorers:
            sharding.begin(scorer)

    @property
    def _scorers(self) -> list[Scorer]:
        return [self.scorer] if self.reference is None else [self.scorer, self.reference]

    def whole(self) -> AbstractContextManager[None]:
        """Inside the block this rank holds all weights, so that it may sample by itself; all ranks must enter it."""
        return sharding.whole(self.scorer)

    @property
    def autocast(self) -> bool:
        """Whether passes compute in bf16 although the trained weights are float32."""
        return self.scorer.autocast

    @property
    def computes_in(self) -> str:
        """The dtype of the passes, such as ``bfloat16``."""
        return str(self.scorer.cast.dtype).removeprefix("torch.")

    @property
    def has_adapters(self) -> bool:
        """Whether the trained weights are LoRA adapters."""
        return hasattr(self.model, "peft_config")

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimizer updates, in the model's order."""
        return ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)

    def precision(self) -> AbstractContextManager[Any]:
        """The context for passes by the model's own code: bf16 autocast or nothing."""
        return self.scorer.precision()

    def score(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        scenes: Scenes = (),
        *,
        temperature: float,
    ) -> TokenScores:
        """Score the masked tokens under the policy (see :class:`edge_grpo.models.scoring.Scorer`).

        ``scenes``, one per row, belong to prompts with pictures; empty = no row of the step has any.
        """
        inputs = self.inputs(input_ids, scenes)
        scores: TokenScores = self.scorer(
            input_ids, attention, mask, temperature=temperature, inputs=inputs, pictured=bool(scenes)
        )
        return scores

    def inputs(
        self, input_ids: Int[Tensor, "rows tokens"], scenes: Scenes = (), starts: Sequence[int] = ()
    ) -> dict[str, Tensor]:
        """What a pass is given besides tokens (see :meth:`edge_grpo.models.vision.ModelVision.inputs`)."""
        return {} if self.vision is None else self.vision.inputs(input_ids, scenes, starts)

    def score_reference(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        scenes: Scenes = (),
        *,
        temperature: float,
    ) -> Float[Tensor, "rows tokens"]:
        """The same log-probs under the reference: the frozen copy, or the base model with adapters switched off.

        Raises:
            EngineError: the policy was loaded without a reference.
        """
        if self.reference is not None:
            inputs = self.inputs(input_ids, scenes)
            scores: TokenScores = self.reference(input_ids, attention, mask, temperature=temperature, inputs=inputs)
            return scores.logprobs
        if not self.has_adapters:
            raise EngineError("no reference model was loaded, but the method asks for its log-probs")
        with self.model.disable_adapter():
            return self.score(input_ids, attention, mask, scenes, temperature=temperature).logprobs

    def hidden_states(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        scenes: Scenes = (),
    ) -> Float[Tensor, "masked dim"]:
        """The hidden states from which the head predicts each masked token, row by row; at least float32, detached."""
        return self.scorer.hidden_states(input_ids, attention, mask, self.inputs(input_ids, scenes))

    def head_weight(self, *, temperature: float) -> Float[Tensor, "vocabulary dim"]:
        """The matrix that maps hidden states to logits divided by the temperature, where the passes run.

        Raises:
            EngineError: the head is not a plain matrix.
        """
        return sharding.full(Head.of(causal(self.model)).matrix(temperature=temperature)).to(self.device)

    def training(self) -> AbstractContextManager[None]:
        """The mode for passes with gradient (see :meth:`edge_grpo.models.scoring.Scorer.gradient_mode`)."""
        return self.scorer.gradient_mode()

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder, and check it (see :func:`edge_grpo.models.saving.save`).

        Raises:
            EngineError: what was written is not what was trained.
        """
        save(self.model, self.tokenizer, folder, dtype=self.save_dtype)
        if self.vision is not None:
            self.vision.save(folder)

    @property
    def adapted(self) -> Adapted:
        """What is trained: adapted layers by kind, and parameters."""
        return what_is_adapted(self.model)
