"""The comparison behind ``docs/results/edge_grpo.md``: ten arms, three rates, five seeds, equal prompts and steps."""

import time
from collections.abc import Sequence
from pathlib import Path

from edge_grpo.compare.edge_page import write_page
from edge_grpo.compare.runs import Arm, Measured, train_all
from edge_grpo.trackers.console import Display

__all__ = ["ARMS", "STEPS", "compare"]

_REFLECT = ("method.correction.reflect=1", "method.correction.answer=0", "method.correction.reference=0")

ARMS = (
    Arm("sft", "SFT on references", (), supervised=True),
    Arm("grpo", "GRPO", ("method=grpo",)),
    Arm("grpo-dynamic", "GRPO + dynamic sampling", ("method=grpo", "method.top_up.max_rounds=3")),
    Arm("force-reflection", "Force-reflection", ("method.eda.enabled=false", *_REFLECT)),
    Arm("force-reflection-eda", "Force-reflection + EDA", _REFLECT),
    Arm("eda", "EDA only", ("method.correction.amount=none",)),
    Arm("gec", "GEC only", ("method.eda.enabled=false",)),
    Arm("edge", "EDGE-GRPO", ()),
    Arm("edge-balanced", "EDGE-GRPO, balanced", ("method.correction.amount=balanced",)),
    Arm("matched", "GRPO + likelihood of the same injections", ("method=grpo_matched",)),
)
STEPS = 14
"""Steps of every arm: short runs, at most a minute each on one core."""


def compare(
    overrides: Sequence[str], *, out: str, folder: str, seeds: int, jobs: int, display: Display
) -> tuple[Measured, ...]:
    """Train what is not trained yet, then write the page.

    Args:
        overrides: settings for all arms alike.
        out: the Markdown page.
        folder: where the runs are kept.
        seeds: how many seeds.
        jobs: how many runs go on side by side, one thread each.
        display: who is told of progress.
    Raises:
        ConfigError: a setting is wrong.
    """
    began = time.monotonic()
    shared = [f"train.steps={STEPS}", *overrides]
    study = train_all(ARMS, shared, folder=folder, seeds=seeds, jobs=jobs, display=display)
    write_page(Path(out), study, overrides)
    display.say(f"wrote {out} after {(time.monotonic() - began) / 60:.1f} minutes")
    return study.measured
