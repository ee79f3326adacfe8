r"""A whole that is a nonlinear function of its parts, :math:`f = g(f_1, \dots, f_J)`: plug-in mean and safe widths.

All widths assume independent parts, which holds where each part is observed (:class:`Decomposed`). Observing their sum
correlates them, and these widths ignore that.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError, ShapeError
from edge_grpo.tune.posterior import Gaussian

__all__ = [
    "delta_width",
    "exact_product",
    "jacobian",
    "plug_in_mean",
    "safe_width",
    "safe_width_cauchy",
    "unsafe_width",
]

Composition = Callable[[Tensor], Tensor]
"""Maps [parts, points] to [points], pointwise and differentiably."""


def plug_in_mean(composition: Composition, parts: Sequence[Gaussian]) -> Float[Tensor, " points"]:
    r"""The composition of the parts' means.

    .. math:: g(\mu_1, \dots, \mu_J)

    Biased wherever g is nonlinear: the mean of g is not g of the means (see :func:`exact_product`).

    Raises:
        ShapeError: the composition does not return one number per point.
    """
    return _composed(composition, torch.stack([part.mean for part in parts]))


def jacobian(composition: Composition, parts: Sequence[Gaussian]) -> Float[Tensor, "points parts"]:
    r"""Derivatives of the composition with respect to each part, :math:`\partial g / \partial f_j` at the means."""
    means = torch.stack([part.mean for part in parts]).detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_composed(composition, means).sum(), means)
    return gradient.T


def safe_width(parts: Sequence[Gaussian], bounds: Sequence[float]) -> Float[Tensor, " points"]:
    r"""A width that is valid for every composition whose slopes stay within the bounds.

    .. math:: \sum_j B_j \sigma_j, \qquad |\partial g / \partial f_j| \le B_j

    Use with ``beta_finite(parts=J)``, which bounds all parts at once. A discontinuous whole has no such bounds.

    Args:
        parts: their posteriors at the points.
        bounds: :math:`B_j`, units of the whole per unit of the part.

    Raises:
        ShapeError: the numbers of bounds and parts differ.
        ConfigError: a bound is negative or not finite.

    Source: derived from the union bound; the paper's generalised theorem is of this kind.
    """
    _check(parts, bounds)
    return torch.stack([b * part.variance.clamp(min=0).sqrt() for b, part in zip(bounds, parts, strict=True)]).sum(0)


def safe_width_cauchy(parts: Sequence[Gaussian], bounds: Sequence[float]) -> Float[Tensor, " points"]:
    r"""The safe width by Cauchy-Schwarz, never narrower: :math:`\sqrt{J \sum_j B_j^2 v_j}`."""
    wider: Tensor = len(parts) ** 0.5 * unsafe_width(parts, bounds)
    return wider


def unsafe_width(parts: Sequence[Gaussian], bounds: Sequence[float]) -> Float[Tensor, " points"]:
    r"""The width in the authors' code, without the factor J: :math:`\sqrt{\sum_j c_j^2 v_j}`; no guarantee."""
    _check(parts, bounds)
    return torch.stack([b**2 * part.variance for b, part in zip(bounds, parts, strict=True)]).sum(0).clamp(min=0).sqrt()


def delta_width(composition: Composition, parts: Sequence[Gaussian]) -> Float[Tensor, " points"]:
    r"""The delta method: to first order around the means, :math:`\sqrt{\sum_j (\partial g / \partial f_j)^2 v_j}`.

    Local, without a guarantee; exact for a linear composition of independent parts.
    """
    slopes = jacobian(composition, parts).T
    variances = torch.stack([part.variance for part in parts])
    return (slopes**2 * variances).sum(0).clamp(min=0).sqrt()


def exact_product(left: Gaussian, right: Gaussian) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    r"""Mean and variance of the product of two independent parts.

    .. math:: \mu_1 \mu_2, \qquad \mu_1^2 v_2 + \mu_2^2 v_1 + v_1 v_2
    """
    variance = left.mean**2 * right.variance + right.mean**2 * left.variance + left.variance * right.variance
    return left.mean * right.mean, variance


def _composed(composition: Composition, means: Tensor) -> Tensor:
    """The composition at the means, checked to be one number per point."""
    whole = composition(means)
    if whole.shape != means.shape[1:]:
        raise ShapeError(
            f"composition: got shape {tuple(whole.shape)} from {tuple(means.shape)}, wanted {tuple(means.shape[1:])}: "
            "one number per point"
        )
    return whole


def _check(parts: Sequence[Gaussian], bounds: Sequence[float]) -> None:
    if len(bounds) != len(parts):
        raise ShapeError(f"got {len(bounds)} bounds for {len(parts)} parts; give one per part")
    if not all(0 <= bound < math.inf for bound in bounds):
        raise ConfigError(f"bounds: got {list(bounds)}, wanted finite numbers of at least 0")
