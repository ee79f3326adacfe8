"""95 % intervals: Wilson's for shares and rare events, the bootstrap for means, Student's t for few values and seeds.

``scipy.stats`` takes half a second to import, so it is imported where it is used.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_grpo.base.rng import derive_seed

__all__ = [
    "bootstrap",
    "combined",
    "difference_interval",
    "mean_interval",
    "padded_interval",
    "rare_changes",
    "t_interval",
    "wilson",
]

Interval = tuple[float, float]
_RESAMPLES = 10_000
_BATCH_INDICES = 2**22  # resampled indices held at once: 32 MiB, and as much again for the values that they pick
_FEW = 10  # with fewer events than this, the bootstrap's interval is too narrow
_SMALL = 30  # and with fewer values than this
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
    Wilson's is too wide, but the bootstrap would be far too narrow. :func:`padded_interval` for fewer than 30 other
    values. Otherwise the bootstrap.

    Example:
        >>> mean_interval([1.0, 0.0]) == wilson(1, 2), mean_interval([])
        (True, (0.0, 1.0))
    """
    events = min(sum(value > 0 for value in values), sum(value < 1 for value in values))
    if events < _FEW or all(value in (0, 1) for value in values):
        return wilson(sum(values), len(values))
    if len(values) < _SMALL:
        low, high = padded_interval([2 * value - 1 for value in values])
        return (low + 1) / 2, (high + 1) / 2
    return bootstrap(values)


def difference_interval(changes: Sequence[float]) -> Interval:
    """A 95 % interval of the mean of paired differences in [-1, 1], over problems like these.

    The bootstrap; :func:`padded_interval` for fewer than 30 differences, or if fewer than 10 differ from the most
    frequent one. Where fewer than 10 are nonzero and all are -1, 0 or 1, the wider of that and :func:`rare_changes`.
    Without differences it is (-1, 1).

    Caveat: at 30 differences and more it covers the mean of skewed, non-binary differences in 92 to 95 % of samples.

    Example:
        >>> low, high = difference_interval([0.0] * 30)
        >>> round(low, 3), round(high, 3)
        (-0.114, 0.114)
    """
    if not changes:
        return -1.0, 1.0
    frequent = max(Counter(changes).values())
    if len(changes) >= _SMALL and len(changes) - frequent >= _FEW:
        return bootstrap(changes)
    ends = [padded_interval(changes)]
    if sum(change != 0 for change in changes) < _FEW and all(change in (-1, 0, 1) for change in changes):
        ends.append(rare_changes(changes))
    return min(low for low, _ in ends), max(high for _, high in ends)


def padded_interval(changes: Sequence[float]) -> Interval:
    r"""Student's 95 % interval of a mean in [-1, 1] from two more values: half a 1, half a -1 and a 0.

    .. math:: \tilde x \pm t_{0.975,\, n+1} \sqrt{\frac{s^2}{n + 2}}, \qquad \tilde x = \frac{\sum x}{n + 2}, \quad
        s^2 = \frac{\sum x^2 + 1 - (n + 2)\, \tilde x^2}{n + 1}

    The added values keep the width above 0 where a few values are all equal; with many values they do not matter.

    Args:
        changes: at least one.
    Source: Agresti and Min 2005, Stat. Med. 24:729 (half an observation in each cell of a 2 x 2 table of matched
        pairs), with Student's quantile, and for any values.
    Example:
        >>> low, high = padded_interval([1.0] * 8)
        >>> round(low, 2), round(high, 2)
        (0.42, 1.0)
    """
    from scipy import stats  # noqa: PLC0415

    count = len(changes) + 2
    mean = sum(changes) / count
    variance = (sum(change**2 for change in changes) + 1 - count * mean**2) / (count - 1)
    half = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return max(-1.0, mean - half), min(1.0, mean + half)


def rare_changes(changes: Sequence[float]) -> Interval:
    r"""A 95 % interval of the mean of differences of which few are nonzero.

    Rises and falls are two shares with Wilson's intervals :math:`[l, u]`, combined:

    .. math:: d - \sqrt{(p_+ - l_+)^2 + (u_- - p_-)^2}, \qquad d + \sqrt{(u_+ - p_+)^2 + (p_- - l_-)^2}

    Source: the combination is Newcombe's, 1998, Stat. Med. 17:873, for independent shares.
    Example:
        >>> low, high = rare_changes([0.0] * 30)
        >>> round(low, 3), round(high, 3)
        (-0.114, 0.114)
    """
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
