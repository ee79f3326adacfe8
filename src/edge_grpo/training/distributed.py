"""Every sum or decision across processes goes through a ``World``; one process by default."""

from dataclasses import dataclass

__all__ = ["World"]


@dataclass(frozen=True)
class World:
    """A set of cooperating processes. This one has a single member, whose sums are its own numbers."""

    rank: int = 0
    size: int = 1

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Add the values of each name over all processes."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        return flag
