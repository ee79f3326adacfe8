"""Ranks of rollouts by likelihood within their group, and the reward that favours unlikely ones."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked, require_finite
from edge_grpo.functional.ops import group_size, where_mask

__all__ = ["group_rank", "unlikeliness_reward"]


@checked
def group_rank(
    scores: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Number of rows in the group with a smaller score; ties share the mean of their ranks.

    .. math:: a_i = |\{j \in g(i) : s_j < s_i\}| + \tfrac12 |\{j \in g(i) : j \ne i, s_j = s_i\}|

    Args:
        scores: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        0 (smallest) to the number of included rows of the group - 1; 0 for rows that do not count. Sums to n(n - 1)/2
        over the n rows of a group.

    Source:
        Definition. Official code of the unlikeliness reward: ties by an unstable sort.

    Example:
        >>> import torch
        >>> group_rank(torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([7, 7, 7]), torch.ones(3).bool())
        tensor([0., 2., 1.])
    """
    require_finite(include, scores=scores)
    together = (group[:, None] == group[None]) & include[:, None] & include[None]
    smaller = together & (scores[None] < scores[:, None])
    equal = together & (scores[None] == scores[:, None])
    twice = 2 * smaller.sum(-1) + (equal.sum(-1) - 1)
    return where_mask(twice.to(scores.dtype) / 2, include)


@checked
def unlikeliness_reward(
    rewards: Float[Tensor, " rows"],
    scores: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    include: Bool[Tensor, " rows"],
    *,
    penalty: float,
    first_rank: int = 0,
) -> Float[Tensor, " rows"]:
    r"""The reward, reduced more the likelier the rollout is within its group.

    .. math:: r'_i = r_i \Big(1 - b \, \frac{a_i + a_0}{n_{g(i)}}\Big)

    Args:
        rewards: one per rollout, reward units.
        scores: log-probability of a rollout, nats (mean per token, or the sum).
        group: each rollout's group; need not be adjacent.
        include: rollouts that count; wrong ones occupy ranks too.
        penalty: :math:`b`, the largest share of a reward that can be taken away.
        first_rank: :math:`a_0`, the rank of the least likely rollout; 0 leaves its reward intact.

    Returns:
        reward units; 0 stays 0, and 0 for rows that do not count.

    Source:
        He et al. 2025, "Rewarding the Unlikely", arXiv:2506.02355. Official code: ``first_rank`` 0; the formula in
        summaries of the paper: 1.

    Example:
        >>> import torch
        >>> rewards, scores, group = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -2.0]), torch.tensor([7, 7])
        >>> unlikeliness_reward(rewards, scores, group, torch.ones(2).bool(), penalty=0.25)
        tensor([0.8750, 1.0000])
    """
    require_finite(include, rewards=rewards)
    rank = group_rank(scores, group, include) + first_rank
    size = group_size(group, include).clamp(min=1)
    return where_mask(rewards * (1 - penalty * rank / size), include)
