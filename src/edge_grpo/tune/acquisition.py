"""Where to look next: upper confidence bounds of a sum of parts, and how wide they are."""

import math

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError

__all__ = ["beta_box", "beta_finite", "confidence_bound"]


def beta_finite(num_candidates: int, step: int, *, delta: float = 0.05, parts: int = 1, scale: float = 1.0) -> float:
    r"""The squared width of the bound over finitely many candidates.

    .. math:: \beta_t = 2 \log\big(J |X| t^2 \pi^2 / 6 \delta\big) / s

    Args:
        num_candidates: :math:`|X|`.
        step: :math:`t`, from 1.
        delta: the chance that the bound fails anywhere, ever.
        parts: :math:`J` of the union bound over parts; 1 for a linear sum.
        scale: :math:`s`; the theory's width (1) explores too much, the authors' code divides by 5.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Srinivas et al. 2010, arXiv:0912.3995, theorem 1; official code of arXiv:2107.03003.

    Example:
        >>> round(beta_finite(25, 1), 6)
        13.424617
    """
    _check(step, delta, scale)
    if num_candidates < 1 or parts < 1:
        raise ConfigError(f"beta: came {num_candidates} candidates and {parts} parts, wanted at least one of each")
    return 2.0 * math.log(parts * num_candidates * step**2 * math.pi**2 / (6.0 * delta)) / scale


def beta_box(dims: int, step: int, *, delta: float = 0.05, a: float = 1.0, b: float = 1.0, scale: float = 1.0) -> float:
    r"""The squared width of the bound over the box :math:`[0, 1]^d`.

    .. math:: \beta_t = \Big(2 \log \frac{2 t^2 \pi^2}{3 \delta}
        + 2 d \log\big(t^2 d b \sqrt{\log(4 d a / \delta)}\big)\Big) / s

    Args:
        dims: :math:`d`.
        step: :math:`t`, from 1.
        delta: the chance that the bound fails.
        a: and ``b``: constants of the kernel's smoothness: a sample path has slope above L with chance
            :math:`a e^{-(L/b)^2}`.
        scale: :math:`s`.

    Raises:
        ConfigError: ``step``, ``delta``, ``a``, ``b`` or ``scale`` is out of range.

    Source:
        Srinivas et al. 2010, arXiv:0912.3995, theorem 2.
    """
    _check(step, delta, scale)
    if dims < 1 or not a > 0 or not b > 0:
        raise ConfigError(f"beta_box: came dims {dims}, a {a:g} and b {b:g}, wanted all of them above 0")
    inside = math.log(4 * dims * a / delta)
    if inside <= 0:
        raise ConfigError(f"beta_box: 4 d a / delta is {4 * dims * a / delta:g}, wanted more than 1; raise a")
    box = 2 * dims * math.log(step**2 * dims * b * math.sqrt(inside))
    beta = 2 * math.log(2 * step**2 * math.pi**2 / (3 * delta)) + box
    if beta < 0:
        raise ConfigError(f"beta_box: with b {b:g} it is {beta:g}, wanted a square; raise b")
    return beta / scale


def confidence_bound(
    mean: Float[Tensor, " points"],
    deviation: Float[Tensor, " points"],
    beta: float,
    *,
    maximize: bool = True,
) -> Float[Tensor, " points"]:
    r"""The optimistic value of every point; the next one to look at is its (first) argmax.

    .. math:: \mu + \sqrt{\beta}\,\sigma, \qquad -(\mu - \sqrt{\beta}\,\sigma) \text{ to minimise}

    Args:
        mean: of the whole.
        deviation: its standard deviation, or a width of :mod:`edge_grpo.tune.composition`.
        beta: the squared factor.
        maximize: False looks for the least value; the result is then the negative of the lower bound.
    """
    return (mean if maximize else -mean) + math.sqrt(beta) * deviation


def _check(step: int, delta: float, scale: float) -> None:
    if step < 1 or not 0 < delta < 1 or not scale > 0:
        raise ConfigError(
            f"beta: came step {step}, delta {delta:g} and scale {scale:g}, wanted step >= 1, 0 < delta < 1 and "
            "scale > 0"
        )
