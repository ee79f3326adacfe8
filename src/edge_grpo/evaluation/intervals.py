"""95 % intervals: Wilson's for shares and rare events, the bootstrap for means, Student's t over seeds.

``scipy.stats`` takes half a second to import, so it is imported where it is used.
"""

import math
from collections.abc import Sequence

import numpy as np

from edge_grpo.base.rng import derive_seed

__all__ = ["bootstrap", "combined", "difference_interval", "mean_interval", "t_interval", "wilson"]

Interval = tuple[float, float]
_RESAMPLES = 10_000
_BATCH_INDICES = 2**22  # resampled indices held at once: 32 MiB, and as much again for the values that they pick
_FEW = 10  # with fewer events than this, the bootstrap's interval is too narrow
_DIGITS = 9  # a sum this close to an integer is that integer


def wilson(successes: float, trials: int) -> Interval:
    r"""Wilson's 95 % score interval of a share.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}, \qquad z = 1.96

    Args:
        successes: number of successes. A fractional number (a sum of values in [0, 1]) takes its lower end from the
            integer below and its upper end from the integer above, so the interval is wider than needed, never
            narrower.
        trials: number of trials; 0 gives (0, 1).
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; computed by ``scipy.stats.binomtest``.
    Example:
        >>> [round(x, 3) for x in wilson(5, 10)]
        [0.237, 0.763]
    """
    from scipy.stats import binomtest  # noqa: PLC0415

    if trials == 0:
        return 0.0, 1.0
    near = round(float(successes), _DIGITS)
    below, above = (
        binomtest(count, trials).proportion_ci(method="wilson") for count in (math.floor(near), math.ceil(near))
    )
    return float(below.low), float(above.high)


def bootstrap(values: Sequence[float], *, resamples: int = _RESAMPLES) -> Interval:
    r"""The 95 % percentile bootstrap interval of a mean; equal input gives an equal interval.

    .. math:: \Big[Q_{2.5\,\%},\; Q_{97.5\,\%}\Big] \text{ of } \bar x^*

    It cannot account for values it never saw: where all values are equal, its width is 0.

    Args:
        values: at least one. Memory stays bounded however many there are.
        resamples: number of resampled means.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13; computed by ``scipy.stats.bootstrap``.
    Example:
        >>> low, high = bootstrap([0.0, 1.0] * 50)
        >>> 0.38 < low < 0.42, 0.58 < high < 0.62
        (True, True)
    """
    from scipy import stats  # noqa: PLC0415

    column = np.asarray(values, dtype=np.float64)
    if column.min() == column.max():
        return float(column[0]), float(column[0])
    ends = stats.bootstrap(
        (column,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BATCH_INDICES // len(column)),
        vectorized=True,
        method="percentile",
        random_state=np.random.Generator(np.random.Philox(key=derive_seed("bootstrap"))),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    r"""Mean and Student's 95 % interval of a few independent values, such as one per seed.

    .. math:: \bar x \pm t_{0.975,\, n-1}\, s / \sqrt n

    Args:
        values: at least one; a single value has no interval (NaN).
    Returns: mean, lower end, upper end.
    Source: Student 1908, Biometrika 6:1; quantiles by ``scipy.stats.t``.
    Example:
        >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    from scipy import stats  # noqa: PLC0415

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan, math.nan
    deviation = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def mean_interval(values: Sequence[float]) -> Interval:
    """A 95 % interval of the mean of values in [0, 1], over problems like these.

    Wilson's where every value is 0 or 1, and where fewer than 10 values are above 0 or fewer than 10 below 1: there
    Wilson's is too wide, but the bootstrap would be far too narrow. Otherwise the bootstrap.

    Example:
        >>> mean_interval([1.0, 0.0]) == wilson(1, 2), mean_interval([])
        (True, (0.0, 1.0))
    """
    events = min(sum(value > 0 for value in values), sum(value < 1 for value in values))
    if events < _FEW or all(value in (0, 1) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap(values)


def difference_interval(changes: Sequence[float]) -> Interval:
    r"""A 95 % interval of the mean of paired differences in [-1, 1], over problems like these.

    The bootstrap; where fewer than 10 differences are nonzero, rises and falls are two shares with Wilson's intervals
    :math:`[l, u]`, combined:

    .. math:: d - \sqrt{(p_+ - l_+)^2 + (u_- - p_-)^2}, \qquad d + \sqrt{(u_+ - p_+)^2 + (p_- - l_-)^2}

    Without differences it is (-1, 1).

    Source: the combination is Newcombe's, 1998, Stat. Med. 17:873, for independent shares.
    Example:
        >>> low, high = difference_interval([0.0] * 30)
        >>> round(low, 3), round(high, 3)
        (-0.114, 0.114)
    """
    if sum(change != 0 for change in changes) >= _FEW:
        return bootstrap(changes)
    count = len(changes)
    rises, falls = sum(max(change, 0.0) for change in changes), sum(max(-change, 0.0) for change in changes)
    up, down = rises / max(1, count), falls / max(1, count)
    least, most = wilson(falls, count)
    return combined([up, -down], [wilson(rises, count), (-most, -least)], [1.0, 1.0])


def combined(means: Sequence[float], intervals: Sequence[Interval], weights: Sequence[float]) -> Interval:
    r"""The interval of a weighted sum of independent means, from their own intervals.

    .. math:: \sum_b w_b \bar x_b - \sqrt{\sum_b w_b^2 (\bar x_b - l_b)^2}, \qquad
        \sum_b w_b \bar x_b + \sqrt{\sum_b w_b^2 (u_b - \bar x_b)^2}

    Source: Zou and Donner 2008, Stat. Med. 27:1693 (MOVER).
    Example:
        >>> combined([0.5, 0.5], [(0.2, 0.8), (0.1, 0.9)], [0.5, 0.5])
        (0.25, 0.75)
    """
    value = sum(w * mean for w, mean in zip(weights, means, strict=True))
    rows = list(zip(means, intervals, weights, strict=True))
    below = math.sqrt(sum((w * (mean - low)) ** 2 for mean, (low, _), w in rows))
    above = math.sqrt(sum((w * (high - mean)) ** 2 for mean, (_, high), w in rows))
    return value - below, value + above
