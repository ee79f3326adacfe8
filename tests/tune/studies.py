"""Run studies of stand-in trials."""

from dataclasses import replace


def run(study, jobs=1):
    """The trials of a study, and (number of known trials, new trial) for every call of ``on_trial``."""
    calls = []
    with study.opened():
        trials = study.run(jobs=jobs, on_trial=lambda known, trial: calls.append((len(known), trial.number)))
    return trials, calls


def even(space, trials=3):
    """The space with evenly spread trials only, so that no prior is fitted."""
    return replace(space, trials=trials, initial=max(2, trials))
