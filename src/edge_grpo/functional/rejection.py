"""Rewards without a group baseline: signed rewards, and the groups to reject."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked, require_finite
from edge_grpo.functional.advantages import collapsed, group_centered
from edge_grpo.functional.ops import group_size, group_std, where_mask

__all__ = ["signed_reward", "standardized", "uniform_groups"]


@checked
def signed_reward(correct: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    r"""1 for a right rollout, -1 for a wrong one.

    .. math:: r_i = 2 \, [o_i \text{ right}] - 1

    Args:
        correct: whether a rollout is right.

    Returns:
        -1 or 1, reward units.

    Source:
        Xiong et al. 2025, arXiv:2504.11343. Official code: 1 and 0, which gives a wrong rollout no weight where the
        paper gives it a negative one.

    Example:
        >>> signed_reward(torch.tensor([True, False]))
        tensor([ 1., -1.])
    """
    return torch.where(correct, 1.0, -1.0)


@checked
def uniform_groups(
    rewards: Float[Tensor, " rows"],
    correct: Bool[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    scorable: Bool[Tensor, " rows"],
    *,
    right: bool = True,
    wrong: bool = True,
) -> Bool[Tensor, " rows"]:
    r"""Rows of groups whose rewards are all equal, split by whether the group is right.

    .. math:: \max_{j \in g(i)} r_j = \min_{j \in g(i)} r_j

    Args:
        rewards: one per rollout.
        correct: whether a rollout is right.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count.
        right: flag groups in which every rollout is right.
        wrong: flag the other groups with equal rewards.

    Returns:
        one flag per row, the same throughout a group. A group with at most one scorable row has equal rewards.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, ablation ("remove all correct", "remove all wrong", "remove both").
        Official code, ``reinforce_rej``: groups with deviation 0, by a floating-point test, and groups of one are kept.

    Example:
        >>> right = torch.tensor([True, True, False, False, True, False])
        >>> group = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> uniform_groups(signed_reward(right), right, group, torch.ones(6).bool(), right=False)
        tensor([False, False,  True,  True, False, False])
    """
    flat = collapsed(rewards, group, scorable)
    all_right = group_size(group, scorable & correct) == group_size(group, scorable)
    return flat & torch.where(all_right, right, wrong)


@checked
def standardized(
    rewards: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    scorable: Bool[Tensor, " rows"],
    *,
    center: bool,
    scale: bool,
    eps: float = 1e-6,
) -> Float[Tensor, " rows"]:
    r"""The reward, optionally centred by the group's mean and scaled by its standard deviation.

    .. math:: A_i = \frac{r_i - c \operatorname{mean}_{g(i)} r}{\operatorname{std}_{g(i)} r + \epsilon}

    Args:
        rewards: one per rollout, reward units.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count.
        center: subtract the mean.
        scale: divide by the unbiased deviation, except in groups whose rewards are all equal.
        eps: added to the deviation, reward units.

    Returns:
        reward units, or dimensionless if scaled; 0 for rows that are not scorable.

    Raises:
        ShapeError: a group has one rollout and the mean is subtracted.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, ablation ("mean zero", "normalized std"); eps = 1e-6 from the official
        code.

    Example:
        >>> rewards, group = torch.tensor([1.0, -1.0]), torch.tensor([7, 7])
        >>> standardized(rewards, group, torch.ones(2).bool(), center=False, scale=True)
        tensor([ 0.7071, -0.7071])
    """
    require_finite(scorable, rewards=rewards)
    values = group_centered(rewards, group, scorable) if center else where_mask(rewards, scorable)
    if not scale:
        return values
    flat = collapsed(rewards, group, scorable)
    return values / torch.where(flat, 1.0, group_std(rewards, group, scorable) + eps)
