"""Rewards relative to selected, possibly few, rows of a group: statistics use ``counted`` rows only.

Where ``advantages`` rejects groups of one and counts every scorable rollout, these functions compare *every* row with
the counted rows of its group, and return 0 where these carry no information: none, one, or all equal.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.advantages import collapsed
from edge_grpo.functional.ops import group_mean, group_size, group_sum, where_mask

__all__ = ["relative_reward", "standardized_reward"]


@checked
def relative_reward(
    rewards: Float[Tensor, " rows"], group: Int[Tensor, " rows"], counted: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Reward minus the mean over the counted rows of the group.

    .. math:: A_i = r_i - \operatorname{mean}_{j \in g(i), c_j} r_j

    Args:
        rewards: one per rollout, reward units.
        group: each rollout's group; need not be adjacent.
        counted: rollouts in the mean.

    Returns:
        reward units, also for rows that are not counted; sums to 0 over the counted rows of a group. Exactly 0 in a
        group whose counted rewards are all equal, or with fewer than two counted rows.

    Source:
        Definition; 0 for a single row as in "standard GRPO" with a guarded deviation.

    Example:
        >>> counted = torch.tensor([True, True, False])
        >>> relative_reward(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([7, 7, 7]), counted)
        tensor([ 0.5000, -0.5000,  1.5000])
    """
    return where_mask(rewards - group_mean(rewards, group, counted), ~collapsed(rewards, group, counted))


@checked
def standardized_reward(
    rewards: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    counted: Bool[Tensor, " rows"],
    *,
    eps: float = 1e-6,
    ddof: int = 1,
) -> Float[Tensor, " rows"]:
    r"""Reward minus the mean over the counted rows of the group, over their standard deviation.

    .. math::
        A_i = \frac{r_i - \operatorname{mean}_{j \in g(i), c_j} r_j}{\sigma_{g(i)} + \epsilon}, \qquad
        \sigma_g^2 = \frac{1}{n_g - \text{ddof}} \sum_{j \in g, c_j} (r_j - \bar r_g)^2

    Args:
        rewards: one per rollout, reward units.
        group: each rollout's group; need not be adjacent.
        counted: rollouts in the mean and deviation.
        eps: added to the deviation, reward units; may be 0.
        ddof: 1 = sample deviation, 0 = population deviation (larger advantages by :math:`\sqrt{n / (n - 1)}`).

    Returns:
        dimensionless, also for rows that are not counted; invariant to adding a constant to the rewards. Exactly 0 in
        a group whose counted rewards are all equal, or with fewer than two counted rows.

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.2, which leaves ddof and eps open.

    Example:
        >>> counted = torch.tensor([True, True, False])
        >>> standardized_reward(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([7, 7, 7]), counted, eps=0.0, ddof=0)
        tensor([ 1., -1.,  3.])
    """
    centred = relative_reward(rewards, group, counted)
    freedom = (group_size(group, counted) - ddof).clamp(min=1)
    deviation = (group_sum(centred**2, group, counted) / freedom).sqrt()
    return centred / torch.where(collapsed(rewards, group, counted), 1.0, deviation + eps)
