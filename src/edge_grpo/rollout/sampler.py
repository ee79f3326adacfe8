"""Prompts in, graded completions out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_grpo.base.records import Grade, Problem, Rollout

__all__ = ["Grader", "Prompted"]

Grader = Callable[[Sequence[Problem], Sequence[Rollout]], list[Grade]]
"""Grades one completion a problem; the text is made from the tokens inside."""


@dataclass(frozen=True)
class Prompted:
    """A problem and the tokens of its prompt; ``variant_ids`` are those of its other wordings."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    variant_ids: tuple[tuple[int, ...], ...] = ()
