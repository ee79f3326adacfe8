"""Entropy-driven advantage: a rollout's certainty relative to its group scales how much it is reinforced."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked, require_finite
from edge_grpo.functional.ops import group_mean, row_mean

__all__ = ["entropy_driven_advantage", "no_positive_credit", "relative_entropy"]


@checked
def relative_entropy(
    entropy: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    group: Int[Tensor, " rows"],
    keep: Bool[Tensor, " rows"] | None = None,
) -> Float[Tensor, " rows"]:
    r"""Mean token entropy of a row, divided by its mean over the group.

    .. math::
        \hat P_i = \frac{P_i}{\operatorname{mean}_{j \in g(i)} P_j}, \qquad
        P_i = \frac{\sum_t m_{i,t} H_{i,t}}{\sum_t m_{i,t}}

    Args:
        entropy: of the temperature-scaled policy at each token, nats.
        mask: tokens over which a row's entropy is averaged.
        group: each row's group; need not be adjacent.
        keep: rows that count in the group's mean; all if not given. A row without masked tokens never counts.

    Returns:
        dimensionless and at least 0; its mean over the counted rows of a group is 1. 1 for a row that does not count,
        and throughout a group whose entropy is 0. Detached.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 6. The release averages over padding too, takes the mean
        over the gathered micro-batch instead of the group, and lets the gradient flow through the division.

    Example:
        >>> entropy = torch.tensor([[0.2, 0.4], [0.9, 0.0]])
        >>> relative_entropy(entropy, torch.tensor([[True, True], [True, False]]), torch.tensor([7, 7]))
        tensor([0.5000, 1.5000])
    """
    counted = mask.any(-1) if keep is None else keep & mask.any(-1)
    require_finite(mask & counted[:, None], entropy=entropy)
    mean = row_mean(entropy.detach(), mask)
    reference = group_mean(mean, group, counted)
    known = counted & (reference > 0)
    return torch.where(known, mean / torch.where(known, reference, 1.0), 1.0)


@checked
def entropy_driven_advantage(
    advantages: Float[Tensor, " rows"],
    relative: Float[Tensor, " rows"],
    *,
    clamp_low: float = 0.1,
    clamp_high: float = 10.0,
) -> Float[Tensor, " rows"]:
    r"""Advantage over the row's relative entropy: more weight for certain rollouts, less for uncertain ones.

    .. math:: \hat A_i = A_i \,/\, \operatorname{clamp}(\hat P_i, c_{low}, c_{high})

    Args:
        advantages: one per rollout.
        relative: :func:`relative_entropy` of each rollout.
        clamp_low: smallest divisor, so the result is at most 1/clamp_low times the advantage.
        clamp_high: largest divisor.

    Returns:
        advantage units; 0 wherever the advantage is 0 (a collapsed group stays collapsed). In general, no longer sums
        to 0 within a group.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 7. The clamp is commented out in the release; without it, a
        row with entropy 0 makes the loss infinite.

    Example:
        >>> entropy_driven_advantage(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0]))
        tensor([  2., -10.])
    """
    require_finite(torch.ones_like(advantages, dtype=torch.bool), advantages=advantages, relative=relative)
    return advantages / relative.clamp(clamp_low, clamp_high)


@checked
def no_positive_credit(
    advantages: Float[Tensor, "rows tokens"], where: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""The advantage, capped at 0 on chosen tokens.

    .. math:: A'_{i,t} = \min(A_{i,t}, 0) \text{ where chosen}

    Args:
        advantages: one per token.
        where: tokens that must not be reinforced, such as the wrong attempt before an injected correction.

    Returns:
        advantage units, never above ``advantages``.

    Source:
        This project. The EDGE-GRPO release gives the wrong attempt of a corrected row the row's positive advantage.

    Example:
        >>> no_positive_credit(torch.tensor([[2.0, 2.0, -1.0]]), torch.tensor([[True, False, True]]))
        tensor([[ 0.,  2., -1.]])
    """
    return torch.where(where, advantages.clamp(max=0), advantages)
