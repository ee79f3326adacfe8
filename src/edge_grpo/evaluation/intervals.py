"""How far a mean over problems can be trusted: Wilson's interval for shares and for few events, else the bootstrap."""

import math
from collections.abc import Sequence

import numpy as np

from edge_grpo.base.rng import derive_seed

__all__ = ["bootstrap", "combined", "difference_interval", "mean_interval", "wilson"]

Interval = tuple[float, float]
_RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2**22  # 32 MiB of drawn problem numbers
_FEW = 10  # problems that differ from all the others; with fewer of them the bootstrap's interval is too narrow


def wilson(successes: float, trials: int) -> Interval:
    r"""A 95 % interval for a share.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}, \qquad z = 1.96

    Args:
        successes: how often it was so; a sum of numbers in [0, 1] gives a wider interval than need be, never a
            narrower one.
        trials: of how many; 0 gives (0, 1).
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    Example:
        >>> [round(x, 3) for x in wilson(5, 10)]
        [0.237, 0.763]
    """
    if trials == 0:
        return 0.0, 1.0
    z, p = 1.959963984540054, successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # rounding may pass p by 1e-16


def bootstrap(values: Sequence[float]) -> Interval:
    r"""A 95 % percentile interval of a mean, problems drawn anew 10,000 times; the same in every call.

    .. math:: \Big[Q_{2.5\,\%},\; Q_{97.5\,\%}\Big] \text{ of } \bar x^*

    It cannot know of what it never saw: of equal values it makes an interval of width 0.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    Example:
        >>> low, high = bootstrap([0.0, 1.0] * 50)
        >>> 0.38 < low < 0.42, 0.58 < high < 0.62
        (True, True)
    """
    column, count, means = np.asarray(values, dtype=np.float64), len(values), np.empty(_RESAMPLES)
    rng = np.random.Generator(np.random.Philox(key=derive_seed("bootstrap")))
    at_once = max(1, _NUMBERS_AT_ONCE // count)
    for start in range(0, _RESAMPLES, at_once):
        size = min(at_once, _RESAMPLES - start)
        means[start : start + size] = column[rng.integers(count, size=(size, count))].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> Interval:
    """A 95 % interval of the mean of numbers in [0, 1], over problems like these.

    Wilson's where every number is 0 or 1, and where fewer than 10 problems are above 0 or fewer than 10 below 1 (it is
    then too wide, where the bootstrap would be far too narrow); else the bootstrap.

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

    The bootstrap; where fewer than 10 problems differ at all, rises and falls as two shares with Wilson's intervals
    :math:`[l, u]`, combined:

    .. math:: d - \sqrt{(p_+ - l_+)^2 + (u_- - p_-)^2}, \qquad d + \sqrt{(u_+ - p_+)^2 + (p_- - l_-)^2}

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
    up, down = rises / count, falls / count
    minus = tuple(-end for end in reversed(wilson(falls, count)))
    return combined([up, -down], [wilson(rises, count), (minus[0], minus[1])], [1.0, 1.0])


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
