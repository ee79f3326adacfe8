"""The comparison behind ``docs/results/methods.md``: every method, equal numbers of generated tokens."""

import time
from collections.abc import Sequence
from pathlib import Path

from edge_grpo.compare.methods_page import write_page
from edge_grpo.compare.runs import Arm, Measured, train_all
from edge_grpo.methods import METHODS
from edge_grpo.trackers.console import Display

__all__ = ["ARMS", "TOKENS", "compare_methods"]

ARMS = tuple(Arm(kind, kind, (f"method={kind}",)) for kind in METHODS)

TOKENS = 60_000
"""Sampled tokens of a run: answers, corrections, second layers and prompts drawn again all count."""

_ENDLESS = 100_000  # steps: the tokens end a run and bring its rate down


def compare_methods(
    overrides: Sequence[str], *, out: str, folder: str, seeds: int, jobs: int, display: Display
) -> tuple[Measured, ...]:
    """Train every method on the same tokens, then write the page.

    Args:
        overrides: settings for all methods alike.
        out: the Markdown page.
        folder: where the runs are kept.
        seeds: how many seeds.
        jobs: how many runs go on side by side, one thread each.
        display: who is told of progress.
    Raises:
        ConfigError: a setting is wrong.
    """
    began = time.monotonic()
    shared = [f"train.steps={_ENDLESS}", f"train.max_tokens={TOKENS}", *overrides]
    study = train_all(ARMS, shared, folder=folder, seeds=seeds, jobs=jobs, display=display)
    write_page(Path(out), study, overrides, baseline="grpo")
    display.say(f"wrote {out} after {(time.monotonic() - began) / 60:.1f} minutes")
    return study.measured
