"""Share-GRPO on pictures, its parts and its controls: eight arms, three learning rates, five seeds, equal samples.

    .venv/bin/python benchmarks/compare_share.py [key=value ...] [--seeds N] [--jobs N] [--dir DIR] [--out FILE]
    make compare-share

Writes docs/results/share_grpo.md. Finished runs stay on disk, so a study that was stopped resumes.
"""

from pathlib import Path

from studies.command import Options, run_study
from studies.runs import Arm, train_all
from studies.share_page import write_page

from edge_grpo.trackers.console import Display

_SHARE = (
    "method=share_grpo",
    "method.transforms=[rotate_90cw, rotate_90ccw, rotate_180cw, gaussian_noise_mean0_std10, "
    "gaussian_noise_mean0_std25, gaussian_noise_mean0_std50]",
    "rollout.group_size=6",
)
_GRPO = ("method=grpo", "rollout.group_size=12")
_APART = "method.every_variant=false"
_TWO, _FOUR = "train.mini_batches=2", "train.mini_batches=4"  # updates per step

ARMS = (
    Arm("grpo", "GRPO", (*_GRPO, _TWO)),
    Arm("augmentation", "augmentation, nothing shared", (*_SHARE, _APART, "method.parts=variant", _TWO)),
    Arm("family", "family-level advantage alone", (*_SHARE, _APART, "method.parts=family", _TWO)),
    Arm("both", "both advantages, answers not shared", (*_SHARE, _APART, _TWO)),
    Arm("share", "Share-GRPO", (*_SHARE, _FOUR)),
    Arm("share-two-updates", "Share-GRPO with the updates of GRPO", (*_SHARE, _TWO)),
    Arm("grpo-four-updates", "GRPO with the updates of Share-GRPO", (*_GRPO, _FOUR)),
    Arm("both-four-updates", "both advantages with the updates of Share-GRPO", (*_SHARE, _APART, _FOUR)),
)
SHARED = (
    *("data.task=digits", "model.path=bundled-vision", "rollout.prompts_per_step=8", "rollout.max_new_tokens=32"),
    *("rollout.top_p=0.99", "train.steps=30", "train.schedule=constant", "train.weight_decay=0.01"),
    *("reward.format=think", "reward.format_weight=0.1", "reward.accuracy_weight=0.9"),
)
DEFAULTS = Options(out="docs/results/share_grpo.md", folder="runs/compare-share", seeds=5)


def compare_share(options: Options, display: Display) -> None:
    """Train the missing runs, then write the page.

    Raises:
        ConfigError: a setting is wrong.
    """
    shared = [*SHARED, *options.overrides]
    comparison = train_all(ARMS, shared, folder=options.folder, seeds=options.seeds, jobs=options.jobs, display=display)
    write_page(Path(options.out), comparison, options.overrides)


if __name__ == "__main__":
    run_study(compare_share, DEFAULTS, (__doc__ or "").splitlines()[0])
