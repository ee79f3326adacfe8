"""Checks a model on a few tokens, when it is loaded, for all that scoring takes for granted."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edge_grpo.base.errors import EngineError
from edge_grpo.models.head import Head
from edge_grpo.models.scoring import STANDARD, Scorer, causal, decoder

__all__ = ["check", "on_cpu", "portable", "portable_attention", "restored_rng"]

_TOKENS: Final = 8


@torch.no_grad()
def check(scorer: Scorer) -> None:
    """Verify that a model's scores are what training takes them for.

    Its logits are its head applied to its hidden states; neither what follows a token nor padding nor another row
    changes its score; scores are the same, whatever the random state, in passes with gradient and without. Logits may
    differ by a fraction of the largest one, 1e-3 in float32 and 5e-2 in bf16, because kernels round differently; the
    scores of the last comparison, which come from the same kernels, by 1e-4 and 2e-2 nats.

    A model of a family that :class:`edge_grpo.models.dense.Dense` knows, but which computes otherwise, is left to its
    own code.

    Raises:
        EngineError: one of these does not hold.
    """
    network = causal(scorer.model)
    family, exact = type(network).__name__, not scorer.autocast and network.dtype in (torch.float32, torch.float64)
    ids = torch.arange(_TOKENS, device=scorer.device)[None]
    alone = torch.ones_like(ids, dtype=torch.bool)
    try:
        with scorer.precision():
            hidden = decoder(network)(input_ids=ids, use_cache=False).last_hidden_state
            ours, theirs = Head.of(network)(hidden), network(input_ids=ids, use_cache=False).logits
        short = ids[:, 3:7]
        mixed = torch.cat([ids, torch.cat([short, ids[:, :4]], dim=-1)])
        attention = torch.cat([alone, torch.arange(_TOKENS, device=scorer.device)[None] < 4])
        first = scorer.next_logits(ids[:, :4], alone[:, :4])[0]
        padded = scorer.next_logits(mixed, attention)[1]
        unpadded = scorer.next_logits(short, alone[:, :4])[0]
        later = attention & (torch.arange(_TOKENS, device=scorer.device) > 0)
        if scorer.is_packed and not _close(
            scorer.before(mixed, attention, later),
            scorer.padded(mixed, attention, later),
            relative=1e-3 if exact else 5e-2,
        ):
            scorer.dense = None  # not what its family computes
        still = _scores(scorer, mixed, attention)
        moving = [_scores(scorer, mixed, attention, seed=seed) for seed in (0, 1)]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = STANDARD if exact else f"set model.dtype=float32, or {STANDARD}"
        raise EngineError(f"model.path: {family} cannot be scored ({reason}); {hint}") from error
    relative = 1e-3 if exact else 5e-2
    if ours.shape != theirs.shape or not _close(ours, theirs, relative=relative):
        raise EngineError(f"model.path: {family} computes its logits in an unsupported way; {STANDARD}")
    if not _close(first, theirs[0, 3], relative=relative):
        raise EngineError(f"model.path: {family} is not causal: later tokens change a token's score; {STANDARD}")
    if not _close(padded, unpadded, relative=relative):
        raise EngineError(f"model.path: {family} scores a row differently when it is padded; {STANDARD}")
    apart = max(float((each - still).abs().max()) for each in moving)
    if not apart <= (1e-4 if exact else 2e-2):
        raise EngineError(
            f"model.path: {family} gives log-probs in training that differ from those in evaluation by {apart:.2g} "
            "nats (dropout or noise of its own), so that no ratio would be right; set it to 0 in the "
            "model's config.json"
        )


@contextmanager
def on_cpu(network: PreTrainedModel) -> Iterator[None]:
    """Try a model on the CPU before it moves to GPUs: without flash attention, and keeping no bf16 copy of weights."""
    with portable_attention(network), torch.autocast("cpu", enabled=False, cache_enabled=False):
        yield


@contextmanager
def portable_attention(network: PreTrainedModel) -> Iterator[None]:
    """Flash attention computes in half precision on a GPU only; sdpa replaces it for the duration."""
    name, other = str(network.config._attn_implementation), portable(network)
    if name == other:
        yield
        return
    network.set_attn_implementation(other)
    try:
        yield
    finally:
        network.set_attn_implementation(name)


def portable(network: PreTrainedModel) -> str:
    """The model's attention, or sdpa in place of one that needs a GPU."""
    name = str(network.config._attn_implementation)
    return "sdpa" if "flash" in name else name


def restored_rng() -> AbstractContextManager[None]:
    """Restore the global generators afterwards: the CPU's and this GPU's; other GPUs are not even initialised."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else [])


def _scores(scorer: Scorer, ids: Tensor, attention: Tensor, seed: int | None = None) -> Tensor:
    """Log-probs of all tokens but the first; with a seed, in the mode of passes with gradient."""
    mask = attention.clone()
    mask[:, 0] = False
    with nullcontext() if seed is None else scorer.gradient_mode(), restored_rng():
        if seed is not None:
            torch.manual_seed(seed)
        logprobs: Tensor = scorer(ids, attention, mask, temperature=1.0).logprobs
    return logprobs


def _close(one: Tensor, other: Tensor, *, relative: float) -> bool:
    """Whether two tensors differ by less than a fraction of the largest value; never with NaN."""
    one, other = one.float(), other.float()
    return bool((one - other).abs().max() <= relative * max(1.0, float(other.abs().max())))
