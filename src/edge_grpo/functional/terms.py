"""Terms to add to a policy loss: divergence from the reference, likelihood of given tokens."""

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import where_mask

__all__ = ["bias_corrected", "k3_kl", "likelihood_loss"]


@checked
def k3_kl(
    logprobs: Float[Tensor, "rows tokens"],
    ref_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Non-negative estimate of the divergence of the policy from the reference.

    .. math:: e^{d} - d - 1, \qquad d = \log \pi_{ref} - \log \pi

    Args:
        logprobs: under the current policy, nats, with gradient.
        ref_logprobs: under the reference, nats.
        mask: tokens that count.

    Returns:
        nats, 0 or more; 0 outside the mask.

    Source:
        Schulman 2020, "Approximating KL divergence" (k3); Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 4. TRL
        1.16.0: same.

    Example:
        >>> import torch
        >>> k3_kl(torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), torch.ones(1, 1).bool())
        tensor([[0.3679]])
    """
    difference = where_mask(ref_logprobs, mask).detach() - where_mask(logprobs, mask)
    return difference.exp() - difference - 1


@checked
def bias_corrected(
    kl: Float[Tensor, "rows tokens"], log_ratio: Float[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""The divergence estimate times the ratio, gradient included, to make its gradient unbiased.

    .. math:: w \cdot \text{kl}

    Args:
        kl: :func:`k3_kl`, nats.
        log_ratio: nats, with gradient.

    Returns:
        nats. The gradient differs from the uncorrected one even at ratio 1.

    Source:
        DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556, section 3.1. TRL 1.16.0, ``use_bias_correction_kl``: same.

    Example:
        >>> import torch
        >>> bias_corrected(torch.tensor([[0.5]]), torch.tensor([[2.0]]).log())
        tensor([[1.]])
    """
    return kl * log_ratio.exp()


@checked
def likelihood_loss(
    logprobs: Float[Tensor, "rows tokens"],
    weights: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Weighted negative log-likelihood: supervised learning on given tokens.

    .. math:: -\omega_{i,t} \log \pi(t)

    Args:
        logprobs: under the current policy, nats, with gradient.
        weights: one per token, 0 or more.
        mask: tokens that count.

    Returns:
        nats; 0 outside the mask.

    Source:
        Definition.

    Example:
        >>> import torch
        >>> likelihood_loss(torch.tensor([[-2.0]]), torch.tensor([[0.5]]), torch.ones(1, 1).bool())
        tensor([[1.]])
    """
    return -where_mask(weights, mask) * where_mask(logprobs, mask)
