"""A reward that any model earns on about half of its answers, in TRL's style; its file imports nothing slow."""

from typing import Any


def reward(completions: list[str], **_: Any) -> list[float]:
    """Whether an answer has an even number of characters."""
    return [float(len(text) % 2 == 0) for text in completions]
