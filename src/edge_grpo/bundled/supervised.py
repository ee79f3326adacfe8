"""Supervised training on worked answers, and the frame that the recipes of the bundled models share."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Scene
from edge_grpo.base.rng import derive_seed
from edge_grpo.base.settings import settings
from edge_grpo.models.vision import ModelVision
from edge_grpo.training.schedule import decay, warm_up

__all__ = [
    "Example",
    "OnStep",
    "Recipe",
    "collate_examples",
    "decoder_sizes",
    "drawn",
    "follow",
    "new_folder",
    "supervised_loss",
    "train_supervised",
]

OnStep = Callable[[int, float], None]
"""Called with the number of updates done and the last loss (nats per token)."""


@settings
class Recipe:
    """How a bundled model is made, apart from what it is shown; the defaults are those of the text model.

    The learning rate rises in ``warmup_steps`` and has fallen to its lowest after ``lesson_steps``, in which answers
    are careful with probability ``careful_lesson``.
    """

    seed: int = 0
    steps: int = Field(default=1200, ge=1)
    lesson_steps: int = Field(default=900, ge=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    warmup_steps: int = Field(default=30, ge=0)
    hidden_size: int = Field(default=128, ge=8)
    num_layers: int = Field(default=3, ge=1)
    num_heads: int = Field(default=4, ge=1)
    careful_lesson: float = Field(default=1.0, ge=0, le=1)


@dataclass(frozen=True)
class Example:
    """Context tokens, which are not trained on, with their scene if they have pictures, and the target tokens after
    them, which are.
    """

    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    scene: Scene | None = None


def supervised_loss(
    model: torch.nn.Module,
    input_ids: Int[Tensor, "rows tokens"],
    attention_mask: Int[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    inputs: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, ""]:
    r"""Mean negative log-likelihood of the tokens under ``mask``.

    .. math:: L = -\frac{1}{|M|} \sum_{(i, t) \in M} \ln \pi(x_{i,t} \mid x_{i,<t})

    Args:
        model: a Hugging Face causal language model.
        input_ids: context and targets, padded.
        attention_mask: 1 where there is a token.
        mask: the tokens to train on; column 0 is never trained.
        inputs: what else the model is given, such as pictures; ids in it replace those of the context.

    Returns:
        nats per token; 0 where the mask is empty.
    """
    given = {"input_ids": input_ids, "attention_mask": attention_mask, **(inputs or {})}
    logits = model(**given, use_cache=False).logits
    wanted = mask[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1][wanted].float(), input_ids[:, 1:][wanted], reduction="sum"
    )
    return losses / wanted.sum().clamp(min=1)


def collate_examples(
    examples: Sequence[Example], pad_id: int
) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
    """Input ids, attention mask and training mask of the examples, right-padded."""
    width = max(len(each.context_ids) + len(each.target_ids) for each in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    attention = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, each in enumerate(examples):
        ids = each.context_ids + each.target_ids
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention[row, : len(ids)] = 1
        mask[row, len(each.context_ids) : len(ids)] = True
    return input_ids, attention, mask


def train_supervised(
    model: torch.nn.Module,
    batches: Iterator[Sequence[Example]],
    *,
    optimizers: Sequence[torch.optim.Optimizer],
    steps: int,
    warmup_steps: int,
    pad_id: int,
    decay_steps: int | None = None,
    vision: ModelVision | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Train ``model`` in place: linear warm-up, cosine decay to 5 % of the peak rate, gradients clipped to norm 1.

    Args:
        model: a Hugging Face causal language model.
        batches: at least ``steps`` batches.
        optimizers: for disjoint parameters; their learning rates are the peaks.
        steps: number of updates.
        warmup_steps: updates until the peak rate.
        pad_id: padding token of short rows.
        decay_steps: updates until the lowest rate, which is then kept; None = ``steps``.
        vision: reads the pictures of examples; None = they have none.
        on_step: called with the number of updates done and the last loss (nats per token).
    """
    peaks = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    device = next(model.parameters()).device
    model.train()
    for step, examples in enumerate(itertools.islice(batches, steps)):
        falling = decay(min(1.0, step / max(1, decay_steps or steps)), "cosine", 0.05)
        for group, peak in peaks:
            group["lr"] = peak * warm_up(step, warmup_steps) * falling
        input_ids, attention, mask = (tensor.to(device) for tensor in collate_examples(examples, pad_id))
        inputs = vision.inputs(input_ids, [each.scene for each in examples]) if vision else None
        loss = supervised_loss(model, input_ids, attention, mask, inputs)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if on_step:
            on_step(step + 1, loss.item())
    model.eval()


def new_folder(out_dir: str | Path) -> Path:
    """The folder for a model.

    Raises:
        ConfigError: it is not empty.
    """
    folder = Path(out_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: already exists; choose a new or empty folder")
    return folder


def decoder_sizes(recipe: Recipe, tokenizer: Any) -> dict[str, Any]:
    """The sizes and special tokens of a recipe's decoder, under the names of Hugging Face's configurations."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden_size,
        "intermediate_size": 3 * recipe.hidden_size,
        "num_hidden_layers": recipe.num_layers,
        "num_attention_heads": recipe.num_heads,
        "num_key_value_heads": max(1, recipe.num_heads // 2),
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def drawn(kind: Any, config: Any, name: str, seed: int) -> Any:
    """A model of a class with weights drawn from a seed; the global generator is left as it was.

    Args:
        kind: a model's class in transformers.
        config: its configuration.
        name: of the recipe, so that recipes draw different weights from one seed.
        seed: the recipe's.
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
        torch.manual_seed(derive_seed(name, seed, "weights") % 2**63)
        return kind(config)


def follow(
    recipe: Recipe,
    model: torch.nn.Module,
    batches: Iterator[Sequence[Example]],
    *,
    pad_id: int,
    vision: ModelVision | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Train a model in place as a recipe says.

    Args:
        recipe: steps and learning rate.
        model: a Hugging Face causal language model.
        batches: at least as many as the recipe's steps.
        pad_id: padding token of short rows.
        vision: reads the pictures of examples; None = they have none.
        on_step: called after every update.

    Raises:
        ConfigError: torch has no Muon optimizer.
    """
    train_supervised(
        model,
        batches,
        optimizers=_optimizers(model, recipe.learning_rate),
        steps=recipe.steps,
        warmup_steps=recipe.warmup_steps,
        pad_id=pad_id,
        decay_steps=min(recipe.lesson_steps, recipe.steps) or recipe.steps,
        vision=vision,
        on_step=on_step,
    )


def _optimizers(model: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (here it needs a third of AdamW's updates), AdamW for everything else.

    Raises:
        ConfigError: torch has no Muon optimizer.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"making a base model needs torch.optim.Muon: got torch {torch.__version__}, wanted >= 2.9")
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]
