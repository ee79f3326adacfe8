"""Invented runs for the tests of comparisons."""

from collections.abc import Callable

from studies.runs import RATES, Arm, Comparison, Measured

from edge_grpo.config.tree import load_config


def measured(arm: str, seed: int, right: int, total: int = 20, rate: float = 1e-4, **figures: object) -> Measured:
    flags = tuple(i < right for i in range(total))
    held = {
        "validation": [True, False],
        "test": list(flags),
        "collapse/before": 0.5,
        "collapse/after": 0.05,
        "advantage/variance_before": 0.9,
        "advantage/variance": 1.1,
        "late/entropy": 0.2,
        "extra_completions": 0.0,
        "seconds": 12.0,
        **figures,
    }
    return Measured(arm, rate, seed, flags, 0.5 if rate == 1e-4 else 0.4, held)


def make_comparison(arms: tuple[Arm, ...], right: Callable[[str], int], *, transformed: bool = False) -> Comparison:
    """Three seeds per arm at the lowest rate and one run at each other rate; ``right`` maps an arm to right answers.

    ``transformed``: every second of 20 answers to transformed pictures is right.
    """
    runs = {}
    for arm in arms:
        same: dict[str, object] = {"collapse/after": 0.5} if arm.name in ("eda", "grpo") else {}
        same |= {"transformed": [True, False] * 10} if transformed else {}
        runs[arm.name] = tuple(measured(arm.name, seed, right(arm.name), **same) for seed in range(3))
    others = [measured(arm.name, 0, 9, rate=rate) for arm in arms for rate in RATES if rate != 1e-4]
    base = Measured(
        "base", 0.0, 0, (True,) + (False,) * 19, 0.1, {"validation": [True], "test": [], "transformed": [True, False]}
    )
    every = (*(run for own in runs.values() for run in own), *others)
    return Comparison(arms, runs, every, {arm.name: 1e-4 for arm in arms}, base, load_config(), ())
