"""Which rows and tokens enter the loss."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked, require_finite
from edge_grpo.functional.ops import group_size, masked_quantile, row_mean, where_mask

__all__ = ["comparable", "high_entropy", "near_policy"]


@checked
def comparable(group: Int[Tensor, " rows"], scorable: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    r"""Rows that can be compared within their group: scorable, with at least one other scorable row.

    .. math:: s_i \wedge |\{j \in g(i) : s_j\}| \ge 2

    Args:
        group: each row's group; need not be adjacent.
        scorable: rows that the grader could judge.

    Returns:
        one flag per row.

    Source:
        This project. TRL keeps unscorable rows in the loss's row and token counts with advantage 0.

    Example:
        >>> import torch
        >>> comparable(torch.tensor([7, 7, 8, 8]), torch.tensor([True, True, True, False]))
        tensor([ True,  True, False, False])
    """
    return scorable & (group_size(group, scorable) >= 2)


@checked
def near_policy(
    advantages: Float[Tensor, "rows tokens"],
    logprobs: Float[Tensor, "rows tokens"],
    sampling_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    threshold: float,
) -> Bool[Tensor, "rows tokens"]:
    r"""Off-policy sequence mask: drops negative advantages on rows that the policy has drifted away from.

    .. math::
        A_{i,t} \ge 0 \;\lor\; \frac{1}{|m_i|} \sum_t m_{i,t} (\log \mu_{i,t} - \log \pi_{i,t}) \le \delta

    Args:
        advantages: one per token.
        logprobs: of the current policy, nats.
        sampling_logprobs: of the sampler (or of the policy before the step's updates), nats; NaN counts as no drift.
        mask: tokens that count.
        threshold: the largest tolerated mean drift :math:`\delta`, nats per token.

    Returns:
        True where the policy-gradient term is kept.

    Source:
        DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556, section 3.1. TRL 1.16.0 ``off_policy_mask_threshold``: same.

    Example:
        >>> import torch
        >>> old, now = torch.tensor([[-1.0], [-1.0]]), torch.tensor([[-3.0], [-1.1]])
        >>> near_policy(torch.tensor([[-1.0], [-1.0]]), now, old, torch.ones(2, 1).bool(), threshold=0.5)
        tensor([[False],
                [ True]])
    """
    drift = row_mean((sampling_logprobs - logprobs.detach()).nan_to_num(nan=0.0), mask)
    return (where_mask(advantages, mask) >= 0) | (drift <= threshold).unsqueeze(-1)


@checked
def high_entropy(
    entropy: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], *, top: float
) -> Bool[Tensor, "rows tokens"]:
    r"""The tokens at which the policy is least certain.

    .. math:: m_{i,t} \wedge H_{i,t} \ge Q_{1-\rho}(\{H_{j,s} : m_{j,s}\})

    Args:
        entropy: of the policy at each token, nats.
        mask: tokens that count, over the whole step (a subset has a different threshold).
        top: share :math:`\rho` of the masked tokens to keep, 0 to 1.

    Returns:
        a subset of ``mask``.

    Source:
        Wang et al. 2025, "Beyond the 80/20 Rule", arXiv:2506.01939, section 5. TRL 1.16.0 ``top_entropy_quantile``:
        same, but with a float32 threshold over one micro-batch.

    Example:
        >>> import torch
        >>> high_entropy(torch.tensor([[0.1, 0.2, 0.9, 5.0]]), torch.tensor([[True, True, True, False]]), top=0.5)
        tensor([[False,  True,  True, False]])
    """
    require_finite(mask, entropy=entropy)
    return mask & (where_mask(entropy.detach(), mask) >= masked_quantile(entropy, mask, q=1 - top))
