"""TRL: what ``GRPOTrainer`` writes with ``log_completions=True``.

``OUTPUT_DIR/completions/completions_00001.parquet``, one file per logged step, with the columns ``step``, ``prompt``,
``completion`` (text, or lists of messages), one for each reward function under its name, further ones that a reward
function logged (``log_extra``), and ``advantage``. The size of a group is not among them, but the rows of a group are
consecutive, as the trainer gathered them. A reward is NaN where its function returned None; a completion that none
could score is unscorable. The weights of the reward functions are not written.

The trainer keeps the rows of the last batch that it generated and writes them again at the next logged step if nothing
was generated since (``num_iterations`` above 1). With ``logging_steps`` above 1, the batches between are in no file;
an evaluation adds its rows to those of the step, and writes its file anew.

Source: trl 1.16.0, trl/trainer/grpo_trainer.py: ``_generate_and_score_completions``, ``log``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edge_grpo.report.sources.columns import Asked, Layout, guessed, read_columns
from edge_grpo.report.sources.records import Completion, Rollouts
from edge_grpo.report.sources.rows import Advance, number

__all__ = ["FOLDER", "is_trl", "read_trl"]

FOLDER: Final = "completions"
"""Where the trainer writes below its output folder."""

_FRAME: Final = ("step", "prompt", "completion", "advantage")
_APART: Final = 0.01  # advantages of a group that differ by more are not those of equal rewards


def is_trl(names: Sequence[str]) -> bool:
    """Whether a file with these columns is TRL's."""
    return set(_FRAME) <= set(names)


def read_trl(
    files: Sequence[Path], names: Sequence[str], first: Mapping[str, Any], asked: Asked, advance: Advance
) -> Rollouts:
    """The completions of TRL's files.

    Raises:
        ConfigError: a column that the user named does not exist.
        DataError: a file cannot be read.
    """
    rewards = [name for name in names if name not in _FRAME and number(first.get(name)) is not None]
    rewards = rewards or [name for name in names if name not in _FRAME and "reward" in name]
    known: dict[str, Sequence[str]] = {"reward": rewards, "group": (), "tokens": ()}
    known |= {role: (role,) for role in ("step", "prompt", "completion")}
    if not asked.columns.get("correct"):
        known["correct"] = [name for name in rewards if name in ("accuracy_reward", "correct", "accuracy")][:1]
    layout = replace(
        guessed(names, first, asked, files[0], known), name="TRL", consecutive=True, repeats=True, advantage="advantage"
    )
    found = read_columns(files, layout, asked, advance)
    return replace(found, notes=[*found.notes, *_doubts(found.completions, layout)])


def _doubts(completions: Sequence[Completion], layout: Layout) -> list[str]:
    """Steps that are in no file, and groups whose advantages contradict their rewards."""
    notes = []
    steps = sorted({one.step for one in completions if one.step is not None})
    if len(steps) > 1 and steps[-1] - steps[0] + 1 > len(steps):
        notes.append(f"{len(steps)} of the steps {steps[0]} to {steps[-1]} are in the files; logging_steps=1 logs all")
    groups: dict[int, list[Completion]] = {}
    for one in completions:
        groups.setdefault(one.group, []).append(one)
    odd = sum(_contradictory(group) for group in groups.values())
    if odd:
        told = ", ".join(layout.rewards)
        notes.append(
            f"in {odd:,} of {len(groups):,} groups the advantages do not fit the reward ({told}): other weights, "
            "other reward columns, or another size of groups; see --reward and --group-size"
        )
    return notes


def _contradictory(group: Sequence[Completion]) -> bool:
    rewards = [one.reward for one in group if one.reward is not None]
    advantages = [one.advantage for one in group if one.reward is not None and one.advantage is not None]
    if len(rewards) < 2 or len(advantages) != len(rewards):
        return False
    apart = max(advantages) - min(advantages)
    return apart > _APART if max(rewards) == min(rewards) else apart == 0
