"""Where to look next: upper confidence bounds on a sum of parts, and their widths."""

import math

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError

__all__ = ["beta_box", "beta_finite", "confidence_bound"]


def beta_finite(num_candidates: int, step: int, *, delta: float = 0.05, parts: int = 1, scale: float = 1.0) -> float:
    r"""Squared width of the bound over finitely many candidates.

    .. math:: \beta_t = 2 \log\big(J |X| t^2 \pi^2 / 6 \delta\big) / s

    Args:
        num_candidates: :math:`|X|`.
        step: :math:`t`, from 1.
        delta: probability that the bound ever fails, at any candidate.
        parts: :math:`J`, the parts in the union bound; 1 for a linear sum.
        scale: :math:`s`; the theoretical width (1) over-explores, the authors' code divides by 5.

    Raises:
        ConfigError: an argument is out of range.

    Source:
        Srinivas et al. 2010, arXiv:0912.3995, theorem 1; official code of arXiv:2107.03003.

    Example:
        >>> round(beta_finite(25, 1), 6)
        13.424617
    """
    _check(step, delta, scale)
    if num_candidates < 1 or parts < 1:
        raise ConfigError(f"beta: got {num_candidates} candidates and {parts} parts, wanted at least one of each")
    return 2.0 * math.log(parts * num_candidates * step**2 * math.pi**2 / (6.0 * delta)) / scale


def beta_box(dims: int, step: int, *, delta: float = 0.05, a: float = 1.0, b: float = 1.0, scale: float = 1.0) -> float:
    r"""Squared width of the bound over the box :math:`[0, 1]^d`.

    .. math:: \beta_t = \Big(2 \log \frac{2 t^2 \pi^2}{3 \delta}
        + 2 d \log\big(t^2 d b \sqrt{\log(4 d a / \delta)}\big)\Big) / s

    Args:
        dims: :math:`d`.
        step: :math:`t`, from 1.
        delta: probability that the bound fails.
        a: with ``b``, the kernel's smoothness constants: a sample path's slope exceeds L with probability
            :math:`a e^{-(L/b)^2}`.
        b: see ``a``.
        scale: :math:`s`.

    Raises:
        ConfigError: ``step``, ``delta``, ``a``, ``b`` or ``scale`` is out of range.

    Source:
        Srinivas et al. 2010, arXiv:0912.3995, theorem 2.
    """
    _check(step, delta, scale)
    if dims < 1 or not a > 0 or not b > 0:
        raise ConfigError(f"beta_box: got dims {dims}, a {a:g} and b {b:g}, wanted all of them above 0")
    inside = math.log(4 * dims * a / delta)
    if inside <= 0:
        raise ConfigError(f"beta_box: 4 d a / delta is {4 * dims * a / delta:g}, wanted more than 1; raise a")
    box = 2 * dims * math.log(step**2 * dims * b * math.sqrt(inside))
    beta = 2 * math.log(2 * step**2 * math.pi**2 / (3 * delta)) + box
    if beta < 0:
        raise ConfigError(f"beta_box: beta is {beta:g} for b {b:g}, wanted at least 0; raise b")
    return beta / scale


def confidence_bound(
    mean: Float[Tensor, " points"],
    deviation: Float[Tensor, " points"],
    beta: float,
    *,
    maximize: bool = True,
) -> Float[Tensor, " points"]:
    r"""Optimistic value of every point; the (first) argmax is the next point to evaluate.

    .. math:: \mu + \sqrt{\beta}\,\sigma, \qquad -(\mu - \sqrt{\beta}\,\sigma) \text{ to minimise}

    Args:
        mean: posterior mean of the whole.
        deviation: its standard deviation, or a width from :mod:`edge_grpo.tune.composition`.
        beta: the squared factor.
        maximize: False searches for the minimum; the result is then the negated lower bound.
    """
    return (mean if maximize else -mean) + math.sqrt(beta) * deviation


def _check(step: int, delta: float, scale: float) -> None:
    if step < 1 or not 0 < delta < 1 or not scale > 0:
        raise ConfigError(
            f"beta: got step {step}, delta {delta:g} and scale {scale:g}, wanted step >= 1, 0 < delta < 1 and scale > 0"
        )
