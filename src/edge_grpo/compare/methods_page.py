"""The Markdown page that compares all methods. Every number comes from the runs; none is typed by hand."""

import platform
from collections.abc import Sequence
from pathlib import Path

from edge_grpo.compare.runs import Measured, Study, paired_difference, t_interval
from edge_grpo.compare.tables import arms_list, figure, rates_table
from edge_grpo.config.tree import config_hash, to_tree

__all__ = ["write_page"]


def write_page(out: Path, study: Study, overrides: Sequence[str], *, baseline: str) -> None:
    """Write the results page.

    Args:
        out: the Markdown file.
        study: what came out.
        overrides: what was changed from the embedded default.
        baseline: the name of the arm that the others are compared with.
    """
    parts = [
        _head(study, overrides),
        _table(study, baseline),
        _not_above_base(study),
        rates_table(study),
        _edges(study),
        arms_list(study.arms),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(parts), encoding="utf-8")


def _head(study: Study, overrides: Sequence[str]) -> str:
    words = "".join(f" {word}" for word in overrides)
    rollout, train, base = study.config.rollout, study.config.train, study.base
    return f"""# All methods on built-in arithmetic

Written by `edge-grpo compare-methods{words}`; every number below is printed by
that command. The embedded default (configuration {config_hash(to_tree(study.config))} but for the method):
the bundled model, {rollout.prompts_per_step} prompts x {rollout.group_size} completions a step, the same
prompts in the same order for every method, until {train.max_tokens} tokens are sampled;
corrections, second layers and prompts drawn again count, so the number of steps differs.
{study.num_seeds} seeds, one CPU thread a run ({platform.machine()}, Python
{platform.python_version()}). Each method has its own defaults and the best of the same three
learning rates on {len(base.figures["validation"])} validation problems (seed 0); accuracy is greedy,
on {len(base.flags)} other held-out problems. Intervals are 95 %.

Methods whose point is not accuracy on a task with few ways to be right (coverage, wordings,
long training) cannot show it here, and with {study.num_seeds} seeds most differences are within
chance: this page shows whether each method learns, not which is best.
"""


def _table(study: Study, baseline: str) -> str:
    titles = (
        "method",
        "rate",
        "test accuracy (interval over seeds)",
        f"minus `{baseline}` (points, over seeds; over problems)",
        "collapse as sampled",
        "after corrections and top-up",
        "entropy, last quarter (nats)",
        "steps",
        "generated tokens",
        "seconds",
    )
    lines = [
        "## Results",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        f"| untrained | - | {study.base.accuracy:.1%} | - | - | - | - | - | - | - |",
    ]
    for arm in study.arms:
        own = study.runs[arm.name]
        cells = [
            f"`{arm.title}`",
            f"{study.rates[arm.name]:g}",
            _accuracy(own),
            "-" if arm.name == baseline else _difference(own, study.runs[baseline]),
            figure(own, "collapse/before", "{:.1%}"),
            figure(own, "collapse/after", "{:.1%}"),
            figure(own, "late/entropy", "{:.3f}"),
            figure(own, "steps", "{:.0f}"),
            figure(own, "sampled_tokens", "{:.0f}"),
            figure(own, "seconds", "{:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = [float(run.figures["seconds"]) for run in study.measured]
    lines += [
        "",
        "Collapse: share of groups whose rewards are all equal, as sampled, and after corrections and dynamic",
        "sampling, before a method drops or pairs rows itself. Entropy: over tokens that the policy sampled itself.",
        "All are means over steps and seeds. A run ends with the step that reaches its tokens, so methods that sample",
        "much a step go further beyond. Seconds: wall time of a run's steps, with another run beside it; the longest",
        f"of all {len(seconds)} runs took {max(seconds):.0f} s, together they took {sum(seconds) / 60:.0f} minutes.",
        "",
        "With one update a step the ratio to the old policy is 1: methods that differ from another in the ratio alone",
        "give its runs again.",
        "",
    ]
    return "\n".join(lines)


def _edges(study: Study) -> str:
    """Where the best rate is the lowest or highest that was tried."""
    tried = sorted({run.rate for run in study.measured})
    low, high = (
        [f"`{arm.title}`" for arm in study.arms if study.rates[arm.name] == end] for end in (tried[0], tried[-1])
    )
    told = [f"{', '.join(names)} chose the {end}" for names, end in ((low, "lowest"), (high, "highest")) if names]
    return f"{'; '.join(told)} of the rates, beyond which there may be a better one.\n" if told else ""


def _accuracy(own: Sequence[Measured]) -> str:
    mean, low, high = t_interval([m.accuracy for m in own])
    return f"{mean:.1%} ({low:.1%} - {high:.1%})"


def _difference(one: Sequence[Measured], two: Sequence[Measured]) -> str:
    (mean, low, high), (least, most) = paired_difference(one, two)
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}; {100 * least:+.1f} to {100 * most:+.1f})"


def _not_above_base(study: Study) -> str:
    """The methods of which it is not shown that they beat the untrained model, with what may tell why."""
    lines = ["## Not above the untrained model", ""]
    for arm in study.arms:
        own = study.runs[arm.name]
        _, low, _ = t_interval([m.accuracy for m in own])
        if not low > study.base.accuracy:
            sampled = [figure(own, name, "{:.1%}") for name in ("accuracy", "late/accuracy")]
            lines.append(
                f"- `{arm.title}`: {_accuracy(own)}; accuracy of its own samples {sampled[0]} over the run and "
                f"{sampled[1]} in the last quarter, entropy there {figure(own, 'late/entropy', '{:.3f}')} nats"
            )
    if len(lines) == 2:
        lines.append("None: the interval over seeds of every method lies above the untrained model.")
    return "\n".join([*lines, ""])
