"""A reward that random text earns half the time, so that every method has something to learn from a random model."""

from collections.abc import Sequence

from edge_grpo.base.records import Problem


def parity(completions: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, object]]:
    """1 and right where the characters' codes sum to an even number."""
    even = [sum(map(ord, text)) % 2 == 0 for text in completions]
    return [{"reward": float(flag), "correct": flag} for flag in even]
