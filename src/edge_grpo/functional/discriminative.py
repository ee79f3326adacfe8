"""Discriminative objectives: score right answers above wrong ones, with a limit on the drift per update.

First a score per row (:func:`log_likelihood_score`, :func:`likelihood_ratio_score`), then the sum over questions of
right over wrong (:func:`right_over_wrong`, :func:`right_over_hard_wrong`). The limit combines an estimate of the
per-token divergence (:func:`old_kl_k1`, :func:`old_kl_k3`) with a penalty for exceeding it
(:func:`multiplier_penalty`, :func:`squared_penalty`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import group_max, group_mean, group_size, row_mean, where_mask

__all__ = [
    "class_weights",
    "likelihood_ratio_score",
    "log_likelihood_score",
    "mixed",
    "multiplier_penalty",
    "old_kl_k1",
    "old_kl_k3",
    "right_over_hard_wrong",
    "right_over_wrong",
    "squared_penalty",
]


@checked
def log_likelihood_score(
    logprobs: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, " rows"]:
    r"""Mean log-probability of a row's tokens.

    .. math:: s_i = \frac{1}{|o_i|} \sum_t \log \pi_{i,t}

    Args:
        logprobs: under the current policy, nats, with gradient.
        mask: tokens that count.

    Returns:
        nats per token, at most 0; 0 for a row without tokens.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (log-L). Official code: same, NaN for a row without tokens.

    Example:
        >>> log_likelihood_score(torch.tensor([[-1.0, -3.0]]), torch.ones(1, 2).bool())
        tensor([-2.])
    """
    return row_mean(logprobs, mask)


@checked
def likelihood_ratio_score(
    log_ratio: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, " rows"]:
    r"""Mean ratio of a row's tokens, never clipped.

    .. math:: s_i = \frac{1}{|o_i|} \sum_t \frac{\pi_{i,t}}{\pi_{old,i,t}}

    Args:
        log_ratio: of the current policy to the one before the step's updates, nats, with gradient.
        mask: tokens that count.

    Returns:
        dimensionless, 0 or more; 1 before the first update.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (L-ratio). Official code: same, NaN for a row without tokens.

    Example:
        >>> likelihood_ratio_score(torch.tensor([[1.0, 3.0]]).log(), torch.ones(1, 2).bool())
        tensor([2.])
    """
    return row_mean(where_mask(log_ratio, mask).exp(), mask)


@checked
def mixed(
    group: Int[Tensor, " rows"], right: Bool[Tensor, " rows"], wrong: Bool[Tensor, " rows"]
) -> Bool[Tensor, " rows"]:
    r"""Rows of groups with both a right and a wrong answer.

    .. math:: |P_{g(i)}| > 0 \wedge |N_{g(i)}| > 0

    Args:
        group: each row's group; need not be adjacent.
        right: the positives P.
        wrong: the negatives N; a row may be neither.

    Returns:
        one flag per row.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 3.

    Example:
        >>> right = torch.tensor([True, False, True])
        >>> mixed(torch.tensor([7, 7, 8]), right, ~right)
        tensor([ True,  True, False])
    """
    return (group_size(group, right) > 0) & (group_size(group, wrong) > 0)


@checked
def class_weights(
    group: Int[Tensor, " rows"], right: Bool[Tensor, " rows"], wrong: Bool[Tensor, " rows"], *, like: Tensor
) -> Float[Tensor, " rows"]:
    r"""Weight of a row's score in its group's contrast.

    .. math:: 1 / |P| \text{ if right}, \quad -1 / |N| \text{ if wrong}, \quad 0 \text{ if the group is not mixed}

    Args:
        group: each row's group; need not be adjacent.
        right: the positives P.
        wrong: the negatives N.
        like: a tensor whose dtype and device the result takes.

    Returns:
        dimensionless; in a mixed group the positives sum to 1 and the negatives to -1, however many are right.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (GRPO has sqrt(p(1 - p)) in place of the 1).

    Example:
        >>> right = torch.tensor([True, False, False, True])
        >>> class_weights(torch.tensor([7, 7, 7, 8]), right, ~right, like=torch.ones(1))
        tensor([ 1.0000, -0.5000, -0.5000,  0.0000])
    """
    both = mixed(group, right, wrong)
    one = torch.ones(len(group), dtype=like.dtype, device=like.device)
    positive = where_mask(one / group_size(group, right).clamp(min=1), right & both)
    return positive - where_mask(one / group_size(group, wrong).clamp(min=1), wrong & both)


@checked
def right_over_wrong(
    scores: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    right: Bool[Tensor, " rows"],
    wrong: Bool[Tensor, " rows"],
) -> Float[Tensor, ""]:
    r"""Mean score of the right answers minus that of the wrong ones, summed over the mixed groups (DisCO-b).

    .. math:: \sum_q \Big[ \operatorname{mean}_{P_q} s - \operatorname{mean}_{N_q} s \Big]

    Args:
        scores: one per row, with gradient.
        group: each row's group, with all its rows present; need not be adjacent.
        right: the positives P.
        wrong: the negatives N.

    Returns:
        score units, to be maximised; 0 if no group is mixed. Invariant to adding a constant to a group's scores.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4. Official code: same, divided by the number of all groups in
        a micro-batch.

    Example:
        >>> right = torch.tensor([True, False, False, True])
        >>> right_over_wrong(torch.tensor([3.0, 1.0, 0.0, 9.0]), torch.tensor([7, 7, 7, 8]), right, ~right)
        tensor(2.5000)
    """
    weights = class_weights(group, right, wrong, like=scores)
    return (weights * where_mask(scores, weights != 0)).sum()


@checked
def right_over_hard_wrong(
    scores: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    right: Bool[Tensor, " rows"],
    wrong: Bool[Tensor, " rows"],
    *,
    tau: float,
) -> Float[Tensor, ""]:
    r"""Like :func:`right_over_wrong`, with a soft maximum in place of the mean over wrong answers (DisCO).

    .. math::
        \sum_q \Big[ \operatorname{mean}_{P_q} s - \tau \log \operatorname{mean}_{N_q} e^{s / \tau} \Big]

    Args:
        scores: one per row, with gradient.
        group: each row's group, with all its rows present; need not be adjacent.
        right: the positives P.
        wrong: the negatives N; in the gradient the j-th has weight :math:`\operatorname{softmax}_{N_q}(s / \tau)_j`.
        tau: temperature in score units, above 0: approaches the mean as it grows, the largest score as it falls to 0.

    Returns:
        score units, to be maximised; 0 if no group is mixed; at most :func:`right_over_wrong`.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (distributionally robust, partial AUC). Official code: same
        gradient; its value has tau * 1 in place of the soft maximum.

    Example:
        >>> right = torch.tensor([True, False, False])
        >>> right_over_hard_wrong(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([7, 7, 7]), right, ~right, tau=0.01)
        tensor(2.0069)
    """
    both = mixed(group, right, wrong)
    highest = where_mask(group_max(scores.detach(), group, wrong), both)
    powers = (where_mask(scores - highest, wrong & both) / tau).exp()
    means = torch.where(both, group_mean(powers, group, wrong), torch.ones_like(powers))
    hard = highest + tau * means.log()
    weights = class_weights(group, right, wrong, like=scores)
    return (weights * where_mask(scores - hard, weights > 0)).sum()


@checked
def old_kl_k1(
    log_ratio: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""Estimate of the divergence of the policy before the step's updates from the current one; may be negative.

    .. math:: -\log w_{i,t}

    Args:
        log_ratio: of the current policy to the one before the step's updates, nats, with gradient.
        mask: tokens that count.

    Returns:
        nats; 0 outside the mask, and everywhere before the first update.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4; Schulman 2020, "Approximating KL divergence" (k1). Official
        code, ``kl_type=kl``: same.

    Example:
        >>> old_kl_k1(torch.tensor([[-0.5, 1.0]]), torch.tensor([[True, False]]))
        tensor([[0.5000, 0.0000]])
    """
    return where_mask(-log_ratio, mask)


@checked
def old_kl_k3(
    log_ratio: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""Like :func:`old_kl_k1`, with the same expectation but less noise, and never negative.

    .. math:: w_{i,t} - 1 - \log w_{i,t}

    Args:
        log_ratio: of the current policy to the one before the step's updates, nats, with gradient.
        mask: tokens that count.

    Returns:
        nats, 0 or more; 0 outside the mask, and everywhere before the first update.

    Source:
        Schulman 2020, "Approximating KL divergence" (k3). DisCO's official code, ``kl_type=low_var_kl``: same.

    Example:
        >>> old_kl_k3(torch.tensor([[2.0, 1.0]]).log(), torch.ones(1, 2).bool())
        tensor([[0.3069, 0.0000]])
    """
    inside = where_mask(log_ratio, mask)
    return inside.exp() - 1 - inside


@checked
def multiplier_penalty(share: Float[Tensor, ""], *, total: float, delta: float, beta: float) -> Float[Tensor, ""]:
    r"""Penalty on the divergence, with a gradient-free multiplier that grows as the limit is exceeded.

    .. math:: \lambda \, K, \qquad \lambda = \operatorname{sg}(\beta \, [K - \delta]_+)

    Args:
        share: this micro-batch's contribution to the mean divergence per token :math:`K`, nats, with gradient.
        total: :math:`K`, over the whole update.
        delta: the limit, nats per token.
        beta: growth of the multiplier, per nat.

    Returns:
        nats; micro-batches sum to :math:`\lambda K`; 0 within the limit.

    Source:
        DisCO's official code, core_algos.py: same, with K of each micro-batch. Its gradient is half that of
        :func:`squared_penalty`.

    Example:
        >>> multiplier_penalty(torch.tensor(0.25), total=0.5, delta=0.1, beta=10.0)
        tensor(1.)
    """
    return beta * max(total - delta, 0.0) * share


@checked
def squared_penalty(
    share: Float[Tensor, ""], *, total: float, delta: float, beta: float, part: float
) -> Float[Tensor, ""]:
    r"""Squared excess of the divergence over its limit.

    .. math:: \beta \, [K - \delta]_+^2

    Args:
        share: this micro-batch's contribution to the mean divergence per token :math:`K`, nats, with gradient.
        total: :math:`K`, over the whole update.
        delta: the limit, nats per token.
        beta: weight, per square nat.
        part: this micro-batch's share of the update's tokens, 0 to 1.

    Returns:
        micro-batches sum to the formula, and their gradients to its gradient; 0 within the limit.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4.

    Example:
        >>> squared_penalty(torch.tensor(0.5), total=0.5, delta=0.1, beta=10.0, part=1.0)
        tensor(1.6000)
    """
    violation = max(total - delta, 0.0)
    value = share.detach() - part * delta  # sums to the violation
    return beta * violation * (value + 2 * (share - share.detach()))
