"""The Markdown page that compares all methods. Every number comes from the runs."""

import platform
from collections.abc import Sequence
from pathlib import Path

from edge_grpo.config.tree import config_hash, to_tree
from edge_grpo.evaluation.intervals import t_interval
from studies.runs import Comparison, Measured
from studies.tables import arms_list, figure, paired_difference, rates_table, write_parts

__all__ = ["write_page"]


def write_page(out: Path, comparison: Comparison, overrides: Sequence[str], *, baseline: str) -> None:
    """Write the results page.

    Args:
        out: the Markdown file.
        comparison: the runs.
        overrides: settings that differ from the embedded default.
        baseline: name of the arm that the others are compared with.
    """
    parts = [
        _head(comparison, overrides),
        _table(comparison, baseline),
        _not_above_base(comparison),
        rates_table(comparison),
        _edges(comparison),
        arms_list(comparison.arms),
    ]
    write_parts(out, parts)


def _head(comparison: Comparison, overrides: Sequence[str]) -> str:
    words = "".join(f" {word}" for word in overrides)
    rollout, train, base = comparison.config.rollout, comparison.config.train, comparison.base
    return f"""# All methods on built-in arithmetic

Written by `benchmarks/compare_methods.py{words}` (`make compare-methods`), including every number
below. Setup: the embedded default (configuration {config_hash(to_tree(comparison.config))} except for the method),
the bundled model, {rollout.prompts_per_step} prompts x {rollout.group_size} completions per step, the same
prompts in the same order for every method, until {train.max_tokens} tokens are sampled;
corrections, second layers and top-up prompts count, so the number of steps differs.
{comparison.num_seeds} seeds, one CPU thread per run ({platform.machine()}, Python
{platform.python_version()}). Each method uses its own defaults and the best of the same three
learning rates on {len(base.figures["validation"])} validation problems (seed 0); accuracy is greedy,
on {len(base.flags)} other held-out problems. Intervals are 95 %.

Methods that aim at something other than accuracy on a task with few ways to be right (coverage,
question variants, long training) cannot show it here, and with {comparison.num_seeds} seeds most differences are
within chance: this page shows whether each method learns, not which is best.
"""


def _table(comparison: Comparison, baseline: str) -> str:
    titles = (
        "method",
        "learning rate",
        "test accuracy (interval over seeds)",
        f"minus `{baseline}` (points; intervals over seeds, over problems)",
        "collapse as sampled",
        "after corrections and top-up",
        "entropy, last quarter (nats per token)",
        "steps",
        "sampled tokens",
        "seconds",
    )
    lines = [
        "## Results",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        f"| untrained | - | {comparison.base.accuracy:.1%} | - | - | - | - | - | - | - |",
    ]
    for arm in comparison.arms:
        own = comparison.runs[arm.name]
        cells = [
            f"`{arm.title}`",
            f"{comparison.rates[arm.name]:g}",
            _accuracy(own),
            "-" if arm.name == baseline else _difference(own, comparison.runs[baseline]),
            figure(own, "collapse/before", "{:.1%}"),
            figure(own, "collapse/after", "{:.1%}"),
            figure(own, "late/entropy", "{:.3f}"),
            figure(own, "steps", "{:.0f}"),
            figure(own, "sampled_tokens", "{:.0f}"),
            figure(own, "seconds", "{:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = [float(run.figures["seconds"]) for run in comparison.measured]
    lines += [
        "",
        "Collapse: share of groups whose rewards are all equal, as sampled, and after corrections and dynamic",
        "sampling, before the method itself drops or pairs rows. Entropy: over tokens that the policy itself sampled.",
        "All are means over steps and seeds. A run ends with the step that reaches its token budget, so methods that",
        "sample more per step overshoot further. Seconds: wall time of a run's steps, with another run alongside; the",
        f"longest of all {len(seconds)} runs took {max(seconds):.0f} s, all together {sum(seconds) / 60:.0f} minutes.",
        "",
        "With one update per step the ratio to the old policy is 1, so methods that differ only in how they use the",
        "ratio give identical runs.",
        "",
    ]
    return "\n".join(lines)


def _edges(comparison: Comparison) -> str:
    """The methods whose best rate is the lowest or highest one tried."""
    tried = sorted({run.rate for run in comparison.measured})
    low, high = (
        [f"`{arm.title}`" for arm in comparison.arms if comparison.rates[arm.name] == end]
        for end in (tried[0], tried[-1])
    )
    told = [f"{', '.join(names)} chose the {end}" for names, end in ((low, "lowest"), (high, "highest")) if names]
    return f"{'; '.join(told)} of the rates; a better one may lie beyond.\n" if told else ""


def _accuracy(own: Sequence[Measured]) -> str:
    mean, low, high = t_interval([m.accuracy for m in own])
    return f"{mean:.1%} ({low:.1%} - {high:.1%})"


def _difference(one: Sequence[Measured], two: Sequence[Measured]) -> str:
    (mean, low, high), (least, most) = paired_difference(one, two)
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}; {100 * least:+.1f} to {100 * most:+.1f})"


def _not_above_base(comparison: Comparison) -> str:
    """The methods not shown to beat the untrained model, with figures that may explain why."""
    lines = ["## Not above the untrained model", ""]
    for arm in comparison.arms:
        own = comparison.runs[arm.name]
        _, low, _ = t_interval([m.accuracy for m in own])
        if not low > comparison.base.accuracy:
            sampled = [figure(own, name, "{:.1%}") for name in ("accuracy", "late/accuracy")]
            entropy = figure(own, "late/entropy", "{:.3f}")
            lines.append(
                f"- `{arm.title}`: {_accuracy(own)}; accuracy of its own samples {sampled[0]} over the run and "
                f"{sampled[1]} in the last quarter, entropy there {entropy} nats per token"
            )
    if len(lines) == 2:
        lines.append("None: every method's interval over seeds lies above the untrained model.")
    return "\n".join([*lines, ""])
