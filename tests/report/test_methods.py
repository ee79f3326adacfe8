"""Every method's run has a report, whose kinds of groups agree with the metrics of the run."""

import math
from collections import Counter
from pathlib import Path

import pytest
from small_runs import SMALL

from edge_grpo.config.tree import load_config
from edge_grpo.methods import METHODS
from edge_grpo.report.groups import DEAD
from edge_grpo.report.page import page
from edge_grpo.report.run import read_run
from edge_grpo.training.loop import train


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kinds_agree_with_the_metrics(method: str, tmp_path: Path) -> None:
    own = [word for word in SMALL if not word.startswith(("method.", "train.steps"))]
    words = [f"method={method}", *own, "train.steps=2", f"run.dir={tmp_path / 'run'}", "rollout.max_new_tokens=60"]
    run = read_run(train(load_config(None, words)).folder)
    assert run.completions
    drawn = [one for one in run.drawn if one.layer == 1]
    before, after = ([(one.step, one.before) for one in drawn], [(one.step, one.after) for one in drawn if one.after])
    for name, kinds in (("before", before), ("after", after)):
        groups = Counter(step for step, _ in kinds)
        dead = Counter(step for step, kind in kinds if kind in DEAD)
        for step, told in run.series(f"collapse/{name}"):
            assert math.isclose(dead[step] / groups[step], told), (name, step)
    assert f"{len(run.completions):,} completions" in page([run]) or method in ("share_grpo", "rpo")
