"""A reward that random text earns half the time, so that every method has something to learn from a random model."""

from collections.abc import Sequence

from edge_grpo.base.records import Problem


def parity(completions: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, object]]:
    """1 and right where the characters' codes sum to an even number."""
    even = [sum(map(ord, text)) % 2 == 0 for text in completions]
    return [{"reward": float(flag), "correct": flag} for flag in even]


def parity_or_answer(completions: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, object]]:
    """The same, and right as well where the problem's answer is boxed, as in corrections."""
    found = parity(completions, problems)
    boxed = [f"\\boxed{{{problem.answer}}}" in text for text, problem in zip(completions, problems, strict=True)]
    return [{"reward": 1.0, "correct": True} if given else own for own, given in zip(found, boxed, strict=True)]


def parity_of_some(completions: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, object]]:
    """The same, but nothing is right for every other problem, so that its group is dead."""
    odd = [int(problem.id.rpartition("-")[2]) % 2 == 1 for problem in problems]
    found = parity(completions, problems)
    return [{"reward": 0.0, "correct": False} if dead else own for own, dead in zip(found, odd, strict=True)]
