"""Equivalent forms of one question: which there are, and which are drawn for a step."""

import random
from collections.abc import Sequence
from typing import TypeVar

from edge_grpo.errors import DataError
from edge_grpo.records import Problem

__all__ = ["check_count", "draw_variants", "wordings"]

T = TypeVar("T")


def wordings(problem: Problem) -> tuple[str, ...]:
    """All texts of a question, its own first.

    Example:
        >>> wordings(Problem("1", "Compute 1+1.", ("2",), variants=("What is 1+1?",)))
        ('Compute 1+1.', 'What is 1+1?')
    """
    return (problem.prompt, *problem.variants)


def check_count(problem: Problem, count: int) -> None:
    """Refuse a problem with fewer than ``count`` wordings.

    Raises:
        DataError: it has fewer.
    """
    if len(wordings(problem)) < count:
        raise DataError(
            f"problem {problem.id!r}: {len(wordings(problem))} wordings of the question, {count} wanted; add some to "
            "its row (data.fields.variants names the column), or set method.num_variants lower"
        )


def draw_variants(problem: Problem, forms: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """``count`` different forms of a question, in random order; its own need not be among them.

    Raises:
        DataError: there are fewer.

    Source:
        Yao et al. 2025, R1-ShareVL, arXiv:2505.16673; as in the release, forms are drawn anew at every visit.
    """
    check_count(problem, count)
    return rng.sample(forms, count)
