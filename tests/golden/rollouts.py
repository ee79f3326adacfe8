"""Rollouts of a golden file as the package represents them."""

import torch
from torch import Tensor

from edge_grpo.base.records import Segment
from edge_grpo.base.tensors import Scored


def scored_rollouts(
    mask: Tensor,
    entropy: Tensor,
    *,
    rewards: Tensor,
    group: Tensor,
    old: Tensor | None = None,
    sampling: Tensor | None = None,
    ref: Tensor | None = None,
) -> Scored:
    """Finished, scorable rollouts that the policy sampled, one family per group; missing log-probs are 0."""
    flags = torch.ones(len(mask), dtype=torch.bool)
    nothing = torch.zeros_like(entropy)
    return Scored(
        input_ids=torch.zeros(mask.shape, dtype=torch.long),
        attention=mask,
        mask=mask,
        segment=mask.long() * int(Segment.SAMPLED),
        group=group,
        family=group,
        variant=torch.zeros_like(group),
        source=torch.zeros_like(group),
        layer=torch.ones_like(group),
        parent=torch.full_like(group, -1),
        reward=rewards,
        reward_parts=rewards[:, None],
        reward_weights=rewards.new_ones(1),
        correct=flags,
        scorable=flags,
        finished=flags,
        corrected=~flags,
        sampling_logprobs=nothing if sampling is None else sampling,
        sampling_entropy=entropy,
        old_logprobs=nothing if old is None else old,
        entropy=entropy,
        ref_logprobs=ref,
    )
