"""All methods on equal numbers of sampled tokens: three learning rates, three seeds.

    .venv/bin/python benchmarks/compare_methods.py [key=value ...] [--seeds N] [--jobs N] [--dir DIR] [--out FILE]
    make compare-methods

Writes docs/results/methods.md. Finished runs stay on disk, so a study that was stopped resumes.
"""

from pathlib import Path

from studies.command import Options, run_study
from studies.methods_page import write_page
from studies.runs import Arm, train_all

from edge_grpo.methods import METHODS
from edge_grpo.trackers.console import Display

ARMS = tuple(Arm(kind, kind, (f"method={kind}",)) for kind in METHODS)
TOKENS = 60_000
"""Sampled tokens per run; answers, corrections, second layers and top-up prompts all count."""
DEFAULTS = Options(out="docs/results/methods.md", folder="runs/compare-methods", seeds=3)
_ENDLESS = 100_000  # steps: the token budget ends a run and drives its learning-rate schedule


def compare_methods(options: Options, display: Display) -> None:
    """Train the missing runs, then write the page.

    Raises:
        ConfigError: a setting is wrong.
    """
    shared = [f"train.steps={_ENDLESS}", f"train.max_tokens={TOKENS}", *options.overrides]
    comparison = train_all(ARMS, shared, folder=options.folder, seeds=options.seeds, jobs=options.jobs, display=display)
    write_page(Path(options.out), comparison, options.overrides, baseline="grpo")


if __name__ == "__main__":
    run_study(compare_methods, DEFAULTS, (__doc__ or "").splitlines()[0])
