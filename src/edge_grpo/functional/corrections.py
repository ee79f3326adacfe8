"""Importance weights for tokens sampled by a program other than the trainer, whose numbers differ slightly.

Compute log-weights per token or per row (:func:`sampler_log_weights`, :func:`sequence_log_weights`), then apply
:func:`truncated` or :func:`masked_weights`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import row_sum, where_mask

__all__ = ["masked_weights", "sampler_log_weights", "sequence_log_weights", "truncated"]


@checked
def sampler_log_weights(
    old_logprobs: Float[Tensor, "rows tokens"],
    sampling_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Logarithm of the importance weight of each sampled token.

    .. math:: \log \rho_{i,t} = \log \pi_{old} - \log \mu

    Args:
        old_logprobs: from the trainer before the step's updates, nats.
        sampling_logprobs: from the sampler, nats; NaN on tokens that were not sampled.
        mask: tokens that count.

    Returns:
        nats; 0 (weight 1) outside the mask and on tokens that were not sampled. Detached.

    Source:
        Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (truncated importance
        sampling). TRL 1.16.0 ``vllm_importance_sampling_correction``: same.

    Example:
        >>> old, sampling = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, torch.nan]])
        >>> sampler_log_weights(old, sampling, torch.ones(1, 2).bool())
        tensor([[0.5000, 0.0000]])
    """
    return where_mask((old_logprobs - sampling_logprobs).detach(), mask & ~sampling_logprobs.isnan())


@checked
def sequence_log_weights(
    log_weights: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""Logarithm of the importance weight of a whole row, on each of its tokens.

    .. math:: \log \rho_i = \sum_t m_{i,t} \log \rho_{i,t}

    Args:
        log_weights: :func:`sampler_log_weights`, nats.
        mask: tokens that count.

    Returns:
        nats, constant along a row.

    Source:
        TRL 1.16.0, modes ``sequence_truncate`` and ``sequence_mask``: same.

    Example:
        >>> sequence_log_weights(torch.tensor([[0.5, 0.25]]), torch.ones(1, 2).bool())
        tensor([[0.7500, 0.7500]])
    """
    return row_sum(log_weights, mask).unsqueeze(-1).expand_as(log_weights)


@checked
def truncated(log_weights: Float[Tensor, "rows tokens"], *, clip_max: float) -> Float[Tensor, "rows tokens"]:
    r"""The importance weight, at most ``clip_max``.

    .. math:: \min(\rho, C)

    Args:
        log_weights: nats.
        clip_max: the cap :math:`C` on the weight.

    Returns:
        dimensionless, 0 to ``clip_max``.

    Source:
        Yao et al. 2025 (truncated importance sampling). TRL 1.16.0, modes ``*_truncate``: same.

    Example:
        >>> truncated(torch.tensor([[0.0, 5.0]]), clip_max=3.0)
        tensor([[1., 3.]])
    """
    return log_weights.exp().clamp(max=clip_max)


@checked
def masked_weights(log_weights: Float[Tensor, "rows tokens"], *, clip_max: float) -> Float[Tensor, "rows tokens"]:
    r"""The importance weight, 0 where it exceeds ``clip_max``.

    .. math:: \rho \, [\rho \le C]

    Args:
        log_weights: nats.
        clip_max: the largest weight :math:`C` to keep.

    Returns:
        dimensionless, 0 to ``clip_max``.

    Source:
        Liu et al. 2025, "When Speed Kills Stability" (masked importance sampling). TRL 1.16.0, modes ``*_mask``: same.

    Example:
        >>> masked_weights(torch.tensor([[0.0, 5.0]]), clip_max=3.0)
        tensor([[1., 0.]])
    """
    weights = log_weights.exp()
    return torch.where(weights > clip_max, torch.zeros_like(weights), weights)
