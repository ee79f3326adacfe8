"""The Markdown page of Share-GRPO and its controls on pictures. Every number comes from the runs."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_grpo.config.tree import config_hash, to_tree
from edge_grpo.evaluation.intervals import t_interval
from studies.runs import Comparison, Measured
from studies.tables import arms_list, figure, paired_difference, rates_table, write_parts

__all__ = ["write_page"]


def write_page(out: Path, comparison: Comparison, overrides: Sequence[str]) -> None:
    """Write the results page.

    Args:
        out: the Markdown file.
        comparison: the runs.
        overrides: settings given on the command line.
    """
    parts = [
        _head(comparison, overrides),
        _accuracy(comparison),
        _signal(comparison),
        _against(comparison),
        rates_table(comparison),
        arms_list(comparison.arms),
    ]
    write_parts(out, parts)


def _head(comparison: Comparison, overrides: Sequence[str]) -> str:
    words = "".join(f" {word}" for word in overrides)
    rollout, train, base = comparison.config.rollout, comparison.config.train, comparison.base
    return f"""# Share-GRPO on pictures of numbers

Written by `benchmarks/compare_share.py{words}` (`make compare-share`), including every number below. Setup: the
embedded task `digits` and the bundled vision-language model (configuration {config_hash(to_tree(comparison.config))}
without the arms' own settings), {rollout.prompts_per_step} questions per step with 12 sampled answers each, the same
questions in the same order for every arm, {train.steps} steps, {comparison.num_seeds} seeds, one CPU thread per run
({platform.machine()}, Python {platform.python_version()}). Each arm uses the best of the same three learning rates
on {len(base.figures["validation"])} validation problems (seed 0). Accuracy is greedy, on {len(base.flags)} other
pictures, and on the same pictures turned or with noise, with the sentence that says so. Intervals are 95 %.

GRPO samples 12 answers to the original question. The other arms sample 6 to each of two variants: a phrasing, of which
three in ten show the picture by one of six transforms (no flips: mirrored digits are not digits). Share-GRPO trains
twice as many rows as it samples, in twice as many updates, as its release does; the last three arms tell its rows from
its updates.
"""


def _accuracy(comparison: Comparison) -> str:
    base = comparison.base
    lines = [
        "## Accuracy",
        "",
        "| arm | learning rate | clean pictures (interval over seeds) | transformed pictures | seconds |",
        "|---|---|---|---|---|",
        f"| untrained | - | {base.accuracy:.1%} | {_share(base.figures['transformed']):.1%} | - |",
    ]
    for arm in comparison.arms:
        own = comparison.runs[arm.name]
        clean = _interval([run.accuracy for run in own])
        other = _interval([_share(run.figures["transformed"]) for run in own])
        rate, seconds = comparison.rates[arm.name], figure(own, "seconds", "{:.0f}")
        lines.append(f"| {arm.title} | {rate:g} | {clean} | {other} | {seconds} |")
    minutes = sum(float(run.figures["seconds"]) for run in comparison.measured) / 60
    told = f"Seconds: of a run's steps, with another run alongside; {minutes:.0f} minutes in all."
    return "\n".join([*lines, "", told, ""])


def _signal(comparison: Comparison) -> str:
    """What there was to learn from."""
    lines = [
        "## Signal",
        "",
        "| arm | questions with an advantage other than 0 | in the first quarter | questions with a right answer | in "
        "the first quarter |",
        "|---|---|---|---|---|",
    ]
    names = ("questions/signal", "early/questions/signal", "questions/right", "early/questions/right")
    for arm in comparison.arms:
        cells = [figure(comparison.runs[arm.name], name, "{:.1%}") for name in names]
        lines.append(f"| {arm.title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Means over steps and seeds, among all answers to a question.", ""])


def _against(comparison: Comparison) -> str:
    """Share-GRPO minus every other arm, seed by seed."""
    lines = [
        "## Share-GRPO against the others",
        "",
        "| Share-GRPO minus | clean: points (over seeds; over problems) | | transformed | |",
        "|---|---|---|---|---|",
    ]
    titles = {arm.name: arm.title for arm in comparison.arms}
    share = comparison.runs["share"]
    for name in (other for other in titles if other != "share"):
        clean, other = (paired_difference(turn(share), turn(comparison.runs[name])) for turn in (list, _transformed))
        found = (f"{_points(own)} | {_verdict(own[0])}" for own in (clean, other))
        lines.append(f"| {titles[name]} | {' | '.join(found)} |")
    lines += ["", "A difference is confirmed if its interval over seeds excludes 0."]
    return "\n".join([*lines, ""])


def _transformed(runs: Sequence[Measured]) -> list[Measured]:
    """The runs with their answers to the transformed pictures."""
    return [replace(run, flags=tuple(run.figures["transformed"])) for run in runs]


def _verdict(interval: tuple[float, float, float]) -> str:
    _, low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "not confirmed"


def _points(found: tuple[tuple[float, float, float], tuple[float, float]]) -> str:
    (mean, low, high), (least, most) = found
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}; {100 * least:+.1f} to {100 * most:+.1f})"


def _interval(values: Sequence[float]) -> str:
    mean, low, high = t_interval(values)
    return f"{mean:.1%} ({low:.1%} - {high:.1%})"


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
