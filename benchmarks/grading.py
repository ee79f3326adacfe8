"""Throughput of the built-in grader, in rows per second through `Rewards.grade`, as in training.

    .venv/bin/python benchmarks/grading.py

The kinds of rows alternate, so that temporary load on the machine slows all of them; each figure is the median over
repetitions, with the minimum and maximum. "Distinct" rows are all different, so that no result is cached; "repeated"
rows are copies of 16 distinct ones, as in a step with 16 prompts whose answers agree.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

from edge_grpo.base.records import Problem
from edge_grpo.rewards import Rewards, RewardSettings

Row = tuple[str, str]  # the content of the box, and the reference answer


def ordinary(draw: random.Random) -> Row:
    """An integer or a fraction in one of its spellings, correct half the time."""
    value = Fraction(draw.randint(-(10**6), 10**6), draw.choice([1, 1, draw.randint(2, 99)]))
    other = value if draw.random() < 0.5 else value + draw.randint(1, 9)
    return spelled(draw, other), spelled(draw, value)


def spelled(draw: random.Random, value: Fraction) -> str:
    """A number as models write it."""
    if value.denominator == 1:
        return draw.choice(["{0}", " {0}", "{0}.0"]).format(value.numerator)
    forms = [r"\frac{{{0}}}{{{1}}}", r"\dfrac{{{0}}}{{{1}}}", "{0}/{1}"]
    return draw.choice(forms).format(value.numerator, value.denominator)


def expression(draw: random.Random) -> Row:
    """A polynomial, compared by sympy."""
    a, b = draw.randint(2, 10**6), draw.randint(2, 10**6)
    return f"{a}x+{b}", rf"{b}+{a}x"


def verified(draw: random.Random) -> Row:
    """A set in another order, compared only by math-verify."""
    elements = [str(draw.randint(-(10**6), 10**6)) for _ in range(4)]
    return r"\{" + ",".join(elements) + r"\}", r"\{" + ",".join(reversed(elements)) + r"\}"


KINDS: dict[str, tuple[Callable[[random.Random], Row], int, int]] = {  # makes a row, rows per call, distinct rows
    "integers and fractions, distinct": (ordinary, 20_000, 20_000),
    "integers and fractions, repeated": (ordinary, 20_000, 16),
    "expressions for sympy, distinct": (expression, 500, 500),
    "expressions for sympy, repeated": (expression, 20_000, 16),
    "sets for math-verify, distinct": (verified, 200, 200),
}


def rows_per_second(rewards: Rewards, kind: str, draw: random.Random) -> float:
    """The throughput of one timed call."""
    make, count, distinct = KINDS[kind]
    rows = [make(draw) for _ in range(distinct)] * (count // distinct)
    problems = [Problem(str(index), "", (gold,)) for index, (_, gold) in enumerate(rows)]
    texts = [f"Some derivation, and so the answer is \\boxed{{{answer}}}." for answer, _ in rows]
    began = time.perf_counter()
    grades = rewards.grade(problems, texts, [True] * count)
    seconds = time.perf_counter() - began
    assert all(grade.verdict.value in ("correct", "wrong") for grade in grades)
    return count / seconds


def main() -> None:
    """Measure all kinds and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    draw = random.Random(0)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with Rewards(RewardSettings(workers=arguments.workers)) as rewards:
        rewards.grade([Problem("w", "", ("1+x",))] * 2, [r"\boxed{x+1}", r"\boxed{y}"], [True] * 2)  # starts workers
        for _ in range(arguments.repetitions):
            for kind, speeds in found.items():
                speeds.append(rows_per_second(rewards, kind, draw))
    print(f"{os.cpu_count()} cores, {arguments.workers} workers, {arguments.repetitions} repetitions; rows per second")
    print(f"{'':36}{'median':>10}{'minimum':>10}{'maximum':>10}")
    for kind, speeds in found.items():
        print(f"{kind:36}{statistics.median(speeds):10.0f}{min(speeds):10.0f}{max(speeds):10.0f}")


if __name__ == "__main__":
    main()
