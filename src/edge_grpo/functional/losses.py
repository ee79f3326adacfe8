"""Policy losses of the GRPO family: log-probabilities -> ratio -> loss per token.

First a log-ratio (:func:`log_ratio`, or :func:`sequence_log_ratio` for GSPO), then a per-token loss
(:func:`clipped_loss`, :func:`cispo_loss`, :func:`sapo_loss`, :func:`vespo_loss`, or :func:`policy_gradient_loss`, which
needs no ratio). ``terms`` holds what may be added; ``means`` reduces it to one number.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import row_mean, row_sum, where_mask

LOG_1E8 = math.log(1e-8)

__all__ = [
    "cispo_loss",
    "clipped_high",
    "clipped_loss",
    "clipped_low",
    "log_ratio",
    "policy_gradient_loss",
    "sapo_loss",
    "sequence_log_ratio",
    "vespo_loss",
    "vespo_weight",
]


@checked
def log_ratio(
    logprobs: Float[Tensor, "rows tokens"],
    old_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Log-ratio of the current policy to the policy before the step's updates.

    .. math:: \log w_{i,t} = \log \pi(t) - \log \pi_{old}(t)

    Args:
        logprobs: under the current policy, nats, with gradient.
        old_logprobs: under the policy before the step's updates, nats.
        mask: tokens that count.

    Returns:
        nats; 0 outside the mask.

    Source:
        Schulman et al. 2017, PPO, arXiv:1707.06347, section 3.

    Example:
        >>> log_ratio(torch.tensor([[-1.0, torch.nan]]), torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, False]]))
        tensor([[0.5000, 0.0000]])
    """
    return where_mask(logprobs, mask) - where_mask(old_logprobs, mask).detach()


@checked
def sequence_log_ratio(
    log_ratio: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    r"""Length-normalised log-ratio of a whole row, on each of its tokens (GSPO).

    .. math:: \log w_i = \frac{1}{|m_i|} \sum_t m_{i,t} \log w_{i,t}

    Args:
        log_ratio: per token, nats.
        mask: tokens that count.

    Returns:
        nats, constant along a row.

    Source:
        Zheng et al. 2025, GSPO, arXiv:2507.18071, eq. 7. TRL 1.16.0, ``importance_sampling_level="sequence"``: same.

    Example:
        >>> sequence_log_ratio(torch.tensor([[0.5, 0.1]]), torch.ones(1, 2).bool())
        tensor([[0.3000, 0.3000]])
    """
    return row_mean(log_ratio, mask).unsqueeze(-1).expand_as(log_ratio)


@checked
def clipped_loss(
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    clip_low: float,
    clip_high: float,
    delta: float | None = None,
) -> Float[Tensor, "rows tokens"]:
    r"""The clipped surrogate of PPO and GRPO.

    .. math:: -\min(\min(w, \delta) A,\; \operatorname{clip}(w, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A)

    Args:
        log_ratio: nats, with gradient.
        advantages: one per token.
        mask: tokens that count.
        clip_low: half-width of the clip range below 1.
        clip_high: half-width above 1.
        delta: cap on the ratio of the unclipped branch, otherwise unbounded where the advantage is negative; None = no
            cap.

    Returns:
        advantage units; 0 outside the mask.

    Source:
        Schulman et al. 2017, PPO, arXiv:1707.06347, eq. 7; two half-widths: Yu et al. 2025, DAPO, arXiv:2503.14476,
        eq. 10; delta: INTELLECT-2, arXiv:2505.07291, section 3.4. TRL 1.16.0: same.

    Example:
        >>> ratio = torch.tensor([[1.5, 0.5]])
        >>> clipped_loss(ratio.log(), torch.ones(1, 2), torch.ones(1, 2).bool(), clip_low=0.2, clip_high=0.2)
        tensor([[-1.2000, -0.5000]])
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    capped = ratio if delta is None else ratio.clamp(max=delta)
    weights = where_mask(advantages, mask)
    return where_mask(-torch.minimum(capped * weights, clipped * weights), mask)


@checked
def policy_gradient_loss(
    logprobs: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Plain policy gradient: the weighted log-likelihood, without ratio or clip.

    .. math:: -A \log \pi

    Args:
        logprobs: under the current policy, nats, with gradient.
        advantages: one per token.
        mask: tokens that count.

    Returns:
        advantage units times nats; 0 outside the mask. Its gradient is that of the unclipped loss at ratio 1.

    Source:
        Williams 1992, REINFORCE, Machine Learning 8:229. Chu et al. 2025, GPG, arXiv:2504.02546, and the release of
        Xiong et al. 2025, arXiv:2504.11343 (``policy_loss=vanilla``): same.

    Example:
        >>> policy_gradient_loss(torch.tensor([[-2.0]]), torch.tensor([[0.5]]), torch.ones(1, 1).bool())
        tensor([[1.]])
    """
    return -where_mask(advantages, mask) * where_mask(logprobs, mask)


@checked
def cispo_loss(
    logprobs: Float[Tensor, "rows tokens"],
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    cap: float,
) -> Float[Tensor, "rows tokens"]:
    r"""Policy gradient weighted by a capped ratio that carries no gradient: no token is ever clipped away.

    .. math:: -\operatorname{sg}(\min(w, C)) \, A \log \pi

    Args:
        logprobs: under the current policy, nats, with gradient.
        log_ratio: nats.
        advantages: one per token.
        mask: tokens that count.
        cap: the largest ratio :math:`C`, not a half-width.

    Returns:
        advantage units times nats; 0 outside the mask.

    Source:
        MiniMax 2025, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5. TRL 1.16.0: same (no lower bound on the ratio).

    Example:
        >>> args = torch.tensor([[-2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.ones(1, 1).bool()
        >>> cispo_loss(*args, cap=5.0)
        tensor([[10.]])
    """
    weights = log_ratio.exp().clamp(max=cap).detach() * where_mask(advantages, mask)
    return -where_mask(weights, mask) * where_mask(logprobs, mask)


@checked
def sapo_loss(
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    temperature_positive: float,
    temperature_negative: float,
) -> Float[Tensor, "rows tokens"]:
    r"""A sigmoid gate in place of the clip: the gradient fades as the ratio moves away from 1.

    .. math:: -\frac{4}{\tau} \sigma(\tau (w - 1)) \, A, \qquad \tau = \tau_+ \text{ if } A > 0 \text{ else } \tau_-

    Args:
        log_ratio: nats, with gradient.
        advantages: one per token.
        mask: tokens that count.
        temperature_positive: sharpness of the gate where the advantage is positive.
        temperature_negative: the same elsewhere.

    Returns:
        advantage units; 0 outside the mask. At ratio 1 the gradient is that of plain policy gradient.

    Source:
        Gao et al. 2025, SAPO, arXiv:2511.20347. TRL 1.16.0: same, with temperatures rounded to float32.

    Example:
        >>> zero = torch.zeros(1, 1)
        >>> sapo_loss(zero, zero + 1, zero == 0, temperature_positive=1.0, temperature_negative=1.05)
        tensor([[-2.]])
    """
    weights = where_mask(advantages, mask)
    temperature = torch.where(weights > 0, temperature_positive, temperature_negative).to(weights.dtype)
    return where_mask(-torch.sigmoid(temperature * (log_ratio.exp() - 1)) * 4 / temperature * weights, mask)


@checked
def vespo_weight(
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    sampler_log_weights: Float[Tensor, "rows tokens"] | None = None,
    *,
    k_positive: float,
    lambda_positive: float,
    k_negative: float,
    lambda_negative: float,
) -> Float[Tensor, "rows tokens"]:
    r"""Gamma-shaped weight of a whole row as a function of its probability ratio.

    .. math::
        \phi = \exp(\lambda + k s - \lambda e^{s}), \qquad
        s = \operatorname{clamp}\Big(\sum_t m_t \operatorname{clamp}(\log w_t, -20, 20)
        + \sum_t m_t \operatorname{clamp}(\log \rho_t, \log 10^{-8}, 20),\; \log 10^{-8},\; 20\Big)

    Args:
        log_ratio: per token, nats.
        advantages: one per token; their sign selects :math:`(k, \lambda)`, with zero counting as positive.
        mask: tokens that count.
        sampler_log_weights: log-weights :math:`\log \rho` of a sampler correction, nats; none if not given.
        k_positive: power of the ratio where the advantage is not negative.
        lambda_positive: rate of the exponential decay there.
        k_negative: power where the advantage is negative.
        lambda_negative: decay there.

    Returns:
        dimensionless, 0 or more; 1 at ratio 1. Detached.

    Source:
        VESPO, 2026, arXiv:2602.10693. TRL 1.16.0: same.

    Example:
        >>> zero, shape = torch.zeros(1, 2), {"k_positive": 2.0, "lambda_positive": 3.0}
        >>> vespo_weight(zero, zero, zero == 0, k_negative=3.0, lambda_negative=2.0, **shape)
        tensor([[1., 1.]])
    """
    total = row_sum(log_ratio.detach().clamp(-20.0, 20.0), mask)
    if sampler_log_weights is not None:
        total = total + row_sum(sampler_log_weights.detach().clamp(LOG_1E8, 20.0), mask)
    s = total.clamp(LOG_1E8, 20.0).unsqueeze(-1)
    positive = where_mask(advantages, mask) >= 0
    k = torch.where(positive, k_positive, k_negative).to(s.dtype)
    rate = torch.where(positive, lambda_positive, lambda_negative).to(s.dtype).clamp(min=1e-4)
    return (rate + k * s - rate * s.exp()).exp()


@checked
def vespo_loss(
    logprobs: Float[Tensor, "rows tokens"],
    weight: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    r"""Policy gradient weighted by :func:`vespo_weight`.

    .. math:: -\phi \, A \log \pi

    Args:
        logprobs: under the current policy, nats, with gradient.
        weight: per token, dimensionless.
        advantages: one per token.
        mask: tokens that count.

    Returns:
        advantage units times nats; 0 outside the mask.

    Source:
        VESPO, 2026, arXiv:2602.10693. TRL 1.16.0: same.

    Example:
        >>> one = torch.ones(1, 1)
        >>> vespo_loss(-one, 0.5 * one, 2 * one, one.bool())
        tensor([[1.]])
    """
    return -where_mask(weight.detach() * advantages, mask) * where_mask(logprobs, mask)


@checked
def clipped_low(
    log_ratio: Float[Tensor, "*shape"], advantages: Float[Tensor, "*shape"], *, clip_low: float
) -> Bool[Tensor, "*shape"]:
    r"""Where the ratio is below the clip range, so the loss has no gradient.

    .. math:: w < 1 - \epsilon_{low} \;\wedge\; A < 0

    Args:
        log_ratio: nats.
        advantages: of the same shape.
        clip_low: half-width of the clip range below 1.

    Returns:
        one flag per element.

    Source:
        TRL 1.16.0, ``clip_ratio/low``: same (a ratio capped by ``delta`` is compared after the cap).

    Example:
        >>> clipped_low(torch.tensor([0.5, 0.5]).log(), torch.tensor([-1.0, 1.0]), clip_low=0.2)
        tensor([ True, False])
    """
    return (log_ratio.detach().exp() < 1 - clip_low) & (advantages < 0)


@checked
def clipped_high(
    log_ratio: Float[Tensor, "*shape"], advantages: Float[Tensor, "*shape"], *, clip_high: float
) -> Bool[Tensor, "*shape"]:
    r"""Where the ratio is above the clip range, so the loss has no gradient.

    .. math:: w > 1 + \epsilon_{high} \;\wedge\; A > 0

    Args:
        log_ratio: nats.
        advantages: of the same shape.
        clip_high: half-width of the clip range above 1; CISPO's cap C is 1 + clip_high.

    Returns:
        one flag per element.

    Source:
        TRL 1.16.0, ``clip_ratio/high`` and ``cispo_clip_ratio``: same (a ratio capped by ``delta`` is compared after
        the cap).

    Example:
        >>> clipped_high(torch.tensor([1.5, 1.5]).log(), torch.tensor([-1.0, 1.0]), clip_high=0.2)
        tensor([False,  True])
    """
    return (log_ratio.detach().exp() > 1 + clip_high) & (advantages > 0)
