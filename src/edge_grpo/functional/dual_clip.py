"""The clipped surrogate, bounded where the advantage is negative (dual clip)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.ops import where_mask

__all__ = ["dual_clipped", "dual_clipped_loss"]


@checked
def dual_clipped_loss(
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    clip_low: float,
    clip_high: float,
    cap: float | None,
) -> Float[Tensor, "rows tokens"]:
    r"""The clipped surrogate, at most ``-cap`` times the advantage where that is negative.

    .. math::
        \ell = -\min(w A,\; \operatorname{clip}(w, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A), \qquad
        \min(\ell, -c A) \text{ where } A < 0

    Args:
        log_ratio: nats, with gradient.
        advantages: one per token.
        mask: tokens that count.
        clip_low: half-width of the clip range below 1.
        clip_high: half-width above 1.
        cap: :math:`c`; None = no cap.

    Returns:
        advantage units; 0 outside the mask. For c >= 1 + clip_high, the same as ``clipped_loss`` with delta = c.

    Source:
        Ye et al. 2020, arXiv:1912.09729, section 3.4 (dual-clip PPO); the Share-GRPO release: same, c = 3.

    Example:
        >>> args = torch.tensor([[5.0]]).log(), torch.tensor([[-1.0]]), torch.ones(1, 1).bool()
        >>> dual_clipped_loss(*args, clip_low=0.2, clip_high=0.3, cap=3.0)
        tensor([[3.]])
    """
    values = clipped_loss(log_ratio, advantages, mask, clip_low=clip_low, clip_high=clip_high)
    if cap is None:
        return values
    weights = where_mask(advantages, mask)
    return torch.where(weights < 0, torch.minimum(values, -cap * weights), values)


@checked
def dual_clipped(
    log_ratio: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, "rows tokens"],
    *,
    clip_low: float,
    clip_high: float,
    cap: float,
) -> Bool[Tensor, "rows tokens"]:
    r"""Where the cap applies, so the loss has no gradient.

    .. math:: \max(w, \operatorname{clip}(w, 1 - \epsilon_{low}, 1 + \epsilon_{high})) > c \;\wedge\; A < 0

    Args:
        log_ratio: nats.
        advantages: one per token.
        clip_low: half-width of the clip range below 1.
        clip_high: half-width above 1.
        cap: :math:`c`.

    Returns:
        one flag per token.

    Source:
        The Share-GRPO release, ``pg_clipfrac_lower``: same.

    Example:
        >>> ratio, advantages = torch.tensor([[5.0, 5.0, 2.0]]), torch.tensor([[-1.0, 1.0, -1.0]])
        >>> dual_clipped(ratio.log(), advantages, clip_low=0.2, clip_high=0.3, cap=3.0)
        tensor([[ True, False, False]])
    """
    ratio = log_ratio.detach().exp()
    return (torch.maximum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high)) > cap) & (advantages < 0)
