"""Stored pairs -> groups: the source of a step for methods that learn from preferences. Nothing is sampled."""

from collections.abc import Iterator

from edge_grpo.data.pairs import EncodedPair, pair_group
from edge_grpo.training.collect import Collected, take

__all__ = ["StoredPairs"]


class StoredPairs:
    """Takes the place of the collector where ``data.pairs`` is set.

    Args:
        stop_id: the token that ends an answer.
    """

    def __init__(self, *, stop_id: int) -> None:
        self.stop_id = stop_id

    def collect(self, pairs: Iterator[EncodedPair], *, num_groups: int) -> Collected:
        """The next ``num_groups`` pairs, a group of two rows each."""
        groups = tuple(pair_group(pair, stop_id=self.stop_id) for pair in take(pairs, num_groups))
        return Collected(groups, num_groups, {"tokens": (0.0, 1.0)})
