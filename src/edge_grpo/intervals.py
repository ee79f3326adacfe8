"""How far a mean over problems can be trusted: Wilson's interval for shares, the bootstrap for everything else."""

import math
from collections.abc import Sequence

import numpy as np

from edge_grpo.rng import derive_seed

__all__ = ["bootstrap", "mean_interval", "wilson"]

_RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2**22  # 32 MiB of drawn problem numbers


def wilson(successes: float, trials: int) -> tuple[float, float]:
    r"""A 95 % interval for a share.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}, \qquad z = 1.96

    Args:
        successes: how often it was so.
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


def bootstrap(parts: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float]:
    r"""A 95 % percentile interval of a weighted sum of means, problems drawn anew within each part.

    .. math:: \Big[Q_{2.5\,\%},\; Q_{97.5\,\%}\Big] \text{ of } \sum_b w_b \bar x_b^*, \qquad 10\,000 \text{ draws}

    Args:
        parts: values of the problems, a sequence a benchmark; none of them empty.
        weights: of each part; those of a mean sum to 1.

    Returns:
        low and high, the same in every call with the same values. Where all values of every part are equal, both are
        their mean: a bootstrap cannot know of what it never saw.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 and 8.3 (strata).

    Example:
        >>> low, high = bootstrap([[0.0, 1.0] * 50], [1.0])
        >>> 0.38 < low < 0.42, 0.58 < high < 0.62
        (True, True)
    """
    total = np.zeros(_RESAMPLES)
    for number, (values, weight) in enumerate(zip(parts, weights, strict=True)):
        column, count = np.asarray(values, dtype=np.float64), len(values)
        rng = np.random.Generator(np.random.Philox(key=derive_seed("bootstrap", number)))
        at_once = max(1, _NUMBERS_AT_ONCE // count)
        for start in range(0, _RESAMPLES, at_once):
            size = min(at_once, _RESAMPLES - start)
            total[start : start + size] += weight * column[rng.integers(count, size=(size, count))].mean(-1)
    low, high = np.quantile(total, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean of numbers in [0, 1], over problems like these.

    Wilson's where every number is 0 or 1 (one answer a problem, or no problem in between), else the bootstrap.

    Example:
        >>> mean_interval([1.0, 0.0]) == wilson(1, 2), mean_interval([])
        (True, (0.0, 1.0))
    """
    if all(value in (0, 1) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap([values], [1.0])
