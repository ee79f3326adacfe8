"""What kind of group a set of rewards makes: one that teaches something, or one of the ways in which it cannot."""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from statistics import median_low
from typing import Final

__all__ = ["DEAD", "NEAR", "OUTERMOST", "Kind", "kind_of", "near_bound"]

NEAR: Final = 0.01
"""Rewards of a group within this share of the usual range of all rewards are nearly constant."""

OUTERMOST: Final = 0.01
"""The share of rewards at each end that the usual range leaves out."""


class Kind(StrEnum):
    """What a group's rewards say.

    ``useful``: they differ. ``near-constant``: they differ by next to nothing; divided by their deviation, such noise
    weighs as much as the difference between a right and a wrong answer. ``all wrong``, ``all right`` and ``equal`` (a
    mixture, or unknown): they are the same, so every advantage is zero. ``unscorable``: fewer than two could be graded,
    so there is nothing to compare.
    """

    USEFUL = "useful"
    NEAR_CONSTANT = "near-constant"
    ALL_WRONG = "all wrong"
    ALL_RIGHT = "all right"
    EQUAL = "equal"
    UNSCORABLE = "unscorable"


DEAD: Final = (Kind.ALL_WRONG, Kind.ALL_RIGHT, Kind.EQUAL, Kind.UNSCORABLE)
"""The kinds of groups without any signal: collapsed, or not to be compared."""


def kind_of(rewards: Sequence[float | None], correct: Sequence[bool | None], *, near: float) -> Kind:
    """The kind of one group.

    Args:
        rewards: one per completion, reward units; None = it could not be graded.
        correct: whether each is right; None = unknown.
        near: the largest difference that counts as nearly constant, reward units; see :func:`near_bound`.
    Example:
        >>> kind_of([0.0, 0.0, None], [False, False, None], near=0.01)
        <Kind.ALL_WRONG: 'all wrong'>
        >>> kind_of([0.5, 0.501], [False, True], near=0.01)
        <Kind.NEAR_CONSTANT: 'near-constant'>
    """
    graded = [(reward, right) for reward, right in zip(rewards, correct, strict=True) if reward is not None]
    if len(graded) < 2:
        return Kind.UNSCORABLE
    values = [reward for reward, _ in graded]
    spread = max(values) - min(values)
    if spread > 0:
        return Kind.NEAR_CONSTANT if spread <= near else Kind.USEFUL
    rights = {right for _, right in graded}
    return Kind.ALL_RIGHT if rights == {True} else Kind.ALL_WRONG if rights == {False} else Kind.EQUAL


def near_bound(rewards: Iterable[float]) -> float:
    """The ``near`` of :func:`kind_of` for all rewards of a run, reward units: 1% of their usual range.

    The usual range leaves out the lowest and the highest 1% of the rewards, at least one of each, so that an outlier
    does not make ordinary groups nearly constant. If all others are equal, it is the median distance from them.

    Example:
        >>> near_bound([0.0, 2.0, 0.0, 2.0]), near_bound([0.0, 1.0, 0.0, 1.0, -200.0]), near_bound([0.0] * 99 + [1.0])
        (0.02, 0.01, 0.01)
    """
    values = sorted(rewards)
    cut = math.ceil(OUTERMOST * len(values))
    usual = values[cut : len(values) - cut] or values
    if not usual:
        return 0.0
    lowest, highest = usual[0], usual[-1]
    apart = [abs(value - lowest) for value in values if value != lowest]
    return NEAR * ((highest - lowest) or (median_low(apart) if apart else 0.0))
