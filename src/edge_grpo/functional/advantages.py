"""From rewards to advantages: how much better than its group a rollout was.

``scorable`` marks rows that the grader could judge; the others enter no mean or deviation and get advantage 0, as does
a row whose group has no second scorable row. Releases treat groups of one differently, hence ``singleton``: ``"error"``
raises, ``"zero"`` gives 0 and ``"raw"`` the reward itself (mean 0, deviation 1).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional._arguments import checked, require_finite
from edge_grpo.functional.ops import (
    group_max,
    group_mean,
    group_min,
    group_size,
    group_std,
    masked_mean,
    masked_std,
    masked_sum,
    where_mask,
)

__all__ = [
    "batch_scaled",
    "collapse_ratio",
    "collapsed",
    "group_centered",
    "group_normalized",
    "group_variance",
    "normalized_then_summed",
    "weighted_reward",
]


@checked
def weighted_reward(parts: Float[Tensor, "rows parts"], weights: Float[Tensor, " parts"]) -> Float[Tensor, " rows"]:
    r"""Weighted sum of the reward parts, skipping parts that were not scored.

    .. math:: r_i = \sum_{k :\, p_{i,k} \ne \text{NaN}} w_k \, p_{i,k}

    Args:
        parts: one column per reward function, reward units; NaN = not scored.
        weights: one per reward function.

    Returns:
        reward units; NaN for a row with no scored part.

    Source:
        TRL 1.16.0, ``reward_weights``: same.

    Example:
        >>> weighted_reward(torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), torch.tensor([1.0, 0.5]))
        tensor([1.0000, 1.5000])
    """
    scored = ~parts.isnan()
    total = where_mask(parts * weights, scored).sum(-1)
    return torch.where(scored.any(-1), total, torch.nan)


@checked
def group_centered(
    rewards: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    scorable: Bool[Tensor, " rows"] | None = None,
    *,
    singleton: Literal["error", "zero", "raw"] = "error",
) -> Float[Tensor, " rows"]:
    r"""Reward minus the mean reward of the group.

    .. math:: A_i = r_i - \operatorname{mean}_{j \in g(i)} r_j

    Args:
        rewards: one per rollout, reward units.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count; all if not given.
        singleton: how to treat a rollout that is alone in its group.

    Returns:
        reward units; sums to 0 within each group, exactly 0 throughout a collapsed group.

    Raises:
        ShapeError: a group has one rollout and ``singleton`` is ``"error"``.

    Source:
        Liu et al. 2025, Dr. GRPO, arXiv:2503.20783, section 3.2. TRL 1.16.0 with ``scale_rewards="none"``: same, but
        with rounding errors instead of 0 in collapsed groups.

    Example:
        >>> group_centered(torch.tensor([1.0, 0.0]), torch.tensor([7, 7]))
        tensor([ 0.5000, -0.5000])
    """
    include = torch.ones_like(rewards, dtype=torch.bool) if scorable is None else scorable
    if singleton == "error":
        _require_pairs(group)
    flat = collapsed(rewards, group, include)
    centered = where_mask(rewards - group_mean(rewards, group, include), include & ~flat)
    alone = include & (group_size(group, include) == 1)
    return torch.where(alone, rewards, centered) if singleton == "raw" else centered


@checked
def group_normalized(
    rewards: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    scorable: Bool[Tensor, " rows"] | None = None,
    *,
    eps: float = 1e-4,
    singleton: Literal["error", "zero", "raw"] = "error",
) -> Float[Tensor, " rows"]:
    r"""Reward minus the group's mean, over the group's standard deviation.

    .. math:: A_i = \frac{r_i - \operatorname{mean}_{j \in g(i)} r_j}{\operatorname{std}_{j \in g(i)} r_j + \epsilon}

    Args:
        rewards: one per rollout, reward units.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count; all if not given.
        eps: added to the unbiased standard deviation, reward units.
        singleton: how to treat a rollout that is alone in its group.

    Returns:
        dimensionless; sums to 0 within each group, exactly 0 throughout a collapsed group, and invariant to adding a
        constant to the rewards.

    Raises:
        ShapeError: a group has one rollout and ``singleton`` is ``"error"``.

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.2. The unbiased deviation and eps = 1e-4 come from
        TRL and the EDGE-GRPO release; the paper specifies neither.

    Example:
        >>> group_normalized(torch.tensor([1.0, 0.0]), torch.tensor([7, 7]))
        tensor([ 0.7070, -0.7070])
    """
    include = torch.ones_like(rewards, dtype=torch.bool) if scorable is None else scorable
    deviation = group_std(rewards, group, include)
    if singleton == "raw":
        deviation = torch.where(group_size(group, include) == 1, 1.0, deviation)
    return group_centered(rewards, group, include, singleton=singleton) / (deviation + eps)


@checked
def batch_scaled(
    rewards: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    scorable: Bool[Tensor, " rows"] | None = None,
    *,
    eps: float = 1e-4,
    singleton: Literal["error", "zero", "raw"] = "error",
) -> Float[Tensor, " rows"]:
    r"""Reward minus the group's mean, over the standard deviation of all rewards of the step.

    .. math:: A_i = \frac{r_i - \operatorname{mean}_{j \in g(i)} r_j}{\operatorname{std}_j r_j + \epsilon}

    Args:
        rewards: one per rollout of the whole step (a subset has a different deviation), reward units.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count; all if not given.
        eps: added to the unbiased standard deviation, reward units.
        singleton: how to treat a rollout that is alone in its group.

    Returns:
        dimensionless; sums to 0 within each group.

    Raises:
        ShapeError: a group has one rollout and ``singleton`` is ``"error"``.

    Source:
        Liu et al. 2025, "Part I: Tricks or Traps?", arXiv:2508.08221 (Lite PPO). TRL 1.16.0 with
        ``scale_rewards="batch"``: same.

    Example:
        >>> batch_scaled(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([7, 7, 8, 8]))
        tensor([ 0.9998, -0.9998,  0.0000,  0.0000])
    """
    include = torch.ones_like(rewards, dtype=torch.bool) if scorable is None else scorable
    return group_centered(rewards, group, include, singleton=singleton) / (masked_std(rewards, include) + eps)


@checked
def normalized_then_summed(
    parts: Float[Tensor, "rows parts"],
    weights: Float[Tensor, " parts"],
    group: Int[Tensor, " rows"],
    *,
    eps: float = 1e-4,
) -> Float[Tensor, " rows"]:
    r"""Each reward part normalised within its group, then weighted, summed and whitened over the step (GDPO).

    .. math::
        z_{i,k} = \frac{p_{i,k} - \operatorname{mean}_{g(i)} p_k}{\operatorname{std}_{g(i)} p_k + \epsilon}, \quad
        s_i = \sum_k w_k z_{i,k}, \quad
        A_i = \frac{s_i - \operatorname{mean}_j s_j}{\operatorname{std}_j s_j + \epsilon}

    Args:
        parts: one column per reward function, reward units; NaN = not scored.
        weights: one per reward function.
        group: each rollout's group; need not be adjacent.
        eps: added to every standard deviation.

    Returns:
        dimensionless; sums to 0 over the step. 0 for a row with no scored part.

    Raises:
        ShapeError: a group has one rollout.

    Source:
        Liu et al. 2026, GDPO, arXiv:2601.05242. TRL 1.16.0 with ``multi_objective_aggregation="normalize_then_sum"``:
        same.

    Example:
        >>> normalized_then_summed(torch.tensor([[1.0], [0.0]]), torch.tensor([2.0]), torch.tensor([7, 7]))
        tensor([ 0.7071, -0.7071])
    """
    scored = ~parts.isnan()
    columns = [group_normalized(parts[:, k], group, scored[:, k], eps=eps) * weights[k] for k in range(parts.shape[1])]
    combined = torch.stack(columns, dim=-1).sum(-1)
    include = scored.any(-1)
    whitened = (combined - masked_mean(combined, include)) / (masked_std(combined, include) + eps)
    return where_mask(whitened, include)


@checked
def collapsed(
    rewards: Float[Tensor, " rows"], group: Int[Tensor, " rows"], scorable: Bool[Tensor, " rows"] | None = None
) -> Bool[Tensor, " rows"]:
    r"""Whether all scorable rewards of a row's group are equal, so that its advantages are all zero.

    .. math:: \max_{j \in g(i)} r_j = \min_{j \in g(i)} r_j

    Args:
        rewards: one per rollout.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count; all if not given.

    Returns:
        one flag per row, the same throughout a group; True where at most one row of the group is scorable.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, section 1 ("advantage collapse"). TRL compares a floating-point
        standard deviation with 0, which rounding can break.

    Example:
        >>> collapsed(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([7, 7, 8, 8]))
        tensor([ True,  True, False, False])
    """
    include = torch.ones_like(rewards, dtype=torch.bool) if scorable is None else scorable
    require_finite(include, rewards=rewards)
    return group_max(rewards, group, include) <= group_min(rewards, group, include)


@checked
def collapse_ratio(
    rewards: Float[Tensor, " rows"], group: Int[Tensor, " rows"], scorable: Bool[Tensor, " rows"] | None = None
) -> Float[Tensor, ""]:
    r"""Share of groups that are collapsed (see :func:`collapsed`); every group counts once, whatever its size.

    .. math:: \frac{1}{|\mathcal G|} \sum_{g \in \mathcal G} [\max_g r = \min_g r]

    Args:
        rewards: one per rollout.
        group: each rollout's group; need not be adjacent.
        scorable: rollouts that count; all if not given.

    Returns:
        a rate, 0 to 1.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848. TRL's ``frac_reward_zero_std`` counts completions instead.

    Example:
        >>> collapse_ratio(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([7, 7, 8, 8]))
        tensor(0.5000)
    """
    everything = torch.ones_like(group, dtype=torch.bool)
    weight = 1 / group_size(group, everything).to(rewards.dtype)  # sums to 1 in each group
    return where_mask(weight, collapsed(rewards, group, scorable)).sum() / weight.sum()


@checked
def group_variance(
    advantages: Float[Tensor, " rows"], group: Int[Tensor, " rows"], keep: Bool[Tensor, " rows"]
) -> Float[Tensor, ""]:
    r"""Variance of the advantages within a group, averaged over groups.

    .. math:: \operatorname{mean}_g \operatorname{var}_{i \in g} A_i

    Args:
        advantages: one per rollout.
        group: each rollout's group; need not be adjacent.
        keep: rollouts that count.

    Returns:
        squared advantage units (unbiased within a group); 0 if every group is collapsed or none is kept.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848 plots a quantity of this name; the release logs the
        variance over one gathered micro-batch.

    Example:
        >>> group_variance(torch.tensor([1.0, -1.0, 0.0, 0.0]), torch.tensor([7, 7, 8, 8]), torch.ones(4).bool())
        tensor(1.0000)
    """
    weight = 1 / group_size(group, keep).clamp(min=1).to(advantages.dtype)
    return masked_sum(weight * group_std(advantages, group, keep) ** 2, keep) / masked_sum(weight, keep).clamp(
        min=torch.finfo(weight.dtype).tiny
    )


def _require_pairs(group: Int[Tensor, " rows"]) -> None:
    """Reject groups of one: their mean is the rollout's own reward."""
    ids, counts = torch.unique(group, return_counts=True)
    if bool((counts < 2).any()):
        raise ShapeError(
            f"groups {ids[counts < 2].tolist()} have one rollout each; a group-relative advantage needs at least 2. "
            "Set rollout.group_size >= 2."
        )
