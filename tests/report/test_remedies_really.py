"""The estimate for larger groups against larger groups that the bundled model really sampled."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_grpo.config.tree import load_config
from edge_grpo.report.diagnosis import Diagnosis, diagnose
from edge_grpo.report.remedies import larger_groups
from edge_grpo.report.sources import Asked, Completion, Rollouts, read_rollouts
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import train

SETTINGS = [
    *("method=grpo", "train.steps=1", "eval.every=0", "eval.at_start=false", "eval.at_end=false"),
    *("rollout.prompts_per_step=256", "rollout.group_size=32"),
]


def first_of(groups: Sequence[Sequence[Completion]], size: int) -> Diagnosis:
    """The diagnosis of the first completions of every group."""
    return diagnose(Rollouts("cut", 1, (), (), [one for own in groups for one in own[:size]]))


@pytest.mark.slow
def test_groups_of_eight_say_how_many_of_32_would_live(tmp_path: Path) -> None:
    folder = train(load_config(None, [*SETTINGS, f"run.dir={tmp_path / 'run'}"]), display=Silent()).folder
    groups: dict[int, list[Completion]] = {}
    for one in read_rollouts(folder, Asked({})).completions:
        groups.setdefault(one.group, []).append(by_correctness(one))
    now = first_of(list(groups.values()), 8)
    before = now.overall.live / now.overall.groups
    for factor in (2, 4):
        found, really = larger_groups(now, factor), first_of(list(groups.values()), 8 * factor).overall
        live = really.live / really.groups
        sys.stdout.write(f"8: {before:.1%}, {8 * factor}: {live:.1%}, estimated {found.live:.1%} ")
        sys.stdout.write(f"({found.low:.1%} to {found.high:.1%})\n")
        assert found.low is not None
        assert found.high is not None
        assert before < found.low < live < found.high


def by_correctness(one: Completion) -> Completion:
    """Right or wrong as the only reward: the estimate is of that."""
    return one._replace(reward=None if one.correct is None else float(one.correct))
