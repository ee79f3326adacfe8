"""Run studies of stand-in trials."""

from dataclasses import replace

from edge_grpo.tune.record import Trial
from edge_grpo.tune.space import Space
from edge_grpo.tune.study import Study


def run(study: Study, jobs: int = 1) -> tuple[list[Trial], list[tuple[int, int]]]:
    """The trials of a study, and (number of known trials, new trial) for every call of ``on_trial``."""
    calls = []
    with study.opened():
        trials = study.run(jobs=jobs, on_trial=lambda known, trial: calls.append((len(known), trial.number)))
    return trials, calls


def even(space: Space, trials: int = 3) -> Space:
    """The space with evenly spread trials only, so that no prior is fitted."""
    return replace(space, trials=trials, initial=max(2, trials))
