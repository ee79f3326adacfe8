"""EDGE-GRPO, its parts and its controls: ten arms, three learning rates, five seeds, equal prompts and steps.

    .venv/bin/python benchmarks/compare_edge.py [key=value ...] [--seeds N] [--jobs N] [--dir DIR] [--out FILE]
    make compare

Writes docs/results/edge_grpo.md. Finished runs stay on disk, so a study that was stopped resumes.
"""

from pathlib import Path

from studies.command import Options, run_study
from studies.edge_page import write_page
from studies.runs import Arm, train_all

from edge_grpo.trackers.console import Display

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
"""Steps per run: short runs, at most a minute each on one core."""
DEFAULTS = Options(out="docs/results/edge_grpo.md", folder="runs/compare", seeds=5)


def compare(options: Options, display: Display) -> None:
    """Train the missing runs, then write the page.

    Raises:
        ConfigError: a setting is wrong.
    """
    shared = [f"train.steps={STEPS}", *options.overrides]
    comparison = train_all(ARMS, shared, folder=options.folder, seeds=options.seeds, jobs=options.jobs, display=display)
    write_page(Path(options.out), comparison, options.overrides)


if __name__ == "__main__":
    run_study(compare, DEFAULTS, (__doc__ or "").splitlines()[0])
