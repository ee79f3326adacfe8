"""Metrics of a scored batch: entropy, and how far the sampler's log-probs are from the policy's."""

from typing import Final

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Segment
from edge_grpo.base.tensors import Scored

__all__ = ["GAP_BOUND", "describe_gap", "describe_scores"]


def describe_scores(batch: Scored) -> Metrics:
    """Entropy in nats per token, over tokens that the policy sampled and over all completion tokens."""
    sampled = batch.mask & (batch.segment != int(Segment.INJECTED))
    return {
        "entropy": (float(batch.entropy[sampled].sum()), float(sampled.sum())),
        "entropy/all_tokens": (float(batch.entropy[batch.mask].sum()), float(batch.mask.sum())),
    }


GAP_BOUND: Final = 0.2
"""Nats: beyond it, a token's importance weight is about as far from 1 as PPO's clip range reaches."""


def describe_gap(batch: Scored) -> Metrics:
    """How far the sampler's log-probs are from the policy's before the update, in nats per sampled token.

    ``sampler/gap`` is the mean absolute difference, ``sampler/gap_max`` the largest, ``sampler/gap_beyond`` the share
    of tokens beyond ``GAP_BOUND``. Tokens without a log-prob from the sampler do not count, nor do rows that were not
    scored and had no advantage, so that no pass was made over them.
    """
    gap = (batch.old_logprobs - batch.sampling_logprobs).abs()
    gap = gap[batch.mask & batch.scorable[:, None] & ~gap.isnan()]
    count = float(gap.numel())
    return {
        "sampler/gap": (float(gap.sum()), count),
        "sampler/gap_max": (float(gap.max()) if count else 0.0, float(count > 0)),
        "sampler/gap_beyond": (float((gap > GAP_BOUND).sum()), count),
    }
