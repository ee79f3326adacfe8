"""Metrics as (sum, count) pairs: merged by addition over micro-batches, steps and ranks, divided once."""

from collections.abc import Iterable, Mapping

__all__ = ["Metrics", "mean_of", "means", "merge", "share"]

Metrics = dict[str, tuple[float, float]]
"""Name -> (sum, count); the value shown is sum / count, NaN where the count is 0."""


def mean_of(values: Iterable[float]) -> tuple[float, float]:
    """The (sum, count) pair of some numbers.

    Example:
        >>> mean_of([1.0, 3.0])
        (4.0, 2.0)
    """
    listed = [float(value) for value in values]
    return sum(listed), float(len(listed))


def share(flags: Iterable[bool]) -> tuple[float, float]:
    """The (sum, count) pair whose value is the share of true flags."""
    return mean_of(float(flag) for flag in flags)


def merge(*parts: Mapping[str, tuple[float, float]]) -> Metrics:
    """Add up the pairs that share a name.

    Example:
        >>> merge({"loss": (1.0, 2.0)}, {"loss": (3.0, 2.0)})
        {'loss': (4.0, 4.0)}
    """
    total: Metrics = {}
    for part in parts:
        for name, (amount, count) in part.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + amount, before[1] + count)
    return total


def means(metrics: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divide every sum by its count (NaN for a count of 0)."""
    return {name: amount / count if count else float("nan") for name, (amount, count) in metrics.items()}
