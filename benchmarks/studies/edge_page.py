"""The Markdown page that compares EDGE-GRPO's parts. Every number comes from the runs."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_grpo.config.tree import Config, config_hash, to_tree
from edge_grpo.evaluation.intervals import t_interval
from studies.runs import Arm, Comparison, Measured
from studies.tables import arms_list, figure, paired_difference, rates_table, write_parts

__all__ = ["write_page"]


def write_page(out: Path, comparison: Comparison, overrides: Sequence[str]) -> None:
    """Write the results page.

    Args:
        out: the Markdown file.
        comparison: the runs.
        overrides: settings that differ from the embedded default.
    """
    parts = [
        _head(comparison.config, comparison.num_seeds, comparison.base, overrides),
        _table(comparison.arms, comparison.runs, comparison.rates, comparison.base),
        _differences(comparison.runs),
        _checks(comparison.runs),
        rates_table(comparison),
        arms_list(comparison.arms),
    ]
    write_parts(out, parts)


def _head(config: Config, seeds: int, base: Measured, overrides: Sequence[str]) -> str:
    rollout = config.rollout
    changed = f" with `{' '.join(overrides)}`" if overrides else ""
    words = "".join(f" {word}" for word in overrides)
    return f"""# EDGE-GRPO and its parts on built-in arithmetic

Written by `benchmarks/compare_edge.py{words}` (`make compare`), including every number below.
Setup: the embedded default{changed} (configuration {config_hash(to_tree(config))}), the bundled model,
{config.train.steps} steps of {rollout.prompts_per_step} prompts x {rollout.group_size} completions, the same prompts in
the same order for every arm, {seeds} seeds, one CPU thread per run ({platform.machine()}, Python
{platform.python_version()}). Each arm uses the best of the same three learning rates on
{len(base.figures["validation"])} validation problems (seed 0); accuracy is greedy, on {len(base.flags)} other
held-out problems. Intervals are 95 %.
A small model on a small task: this shows how the parts behave, not how a 7B model fares.
"""


def _table(
    arms: Sequence[Arm], runs: Mapping[str, Sequence[Measured]], chosen: Mapping[str, float], base: Measured
) -> str:
    lines = [
        "## Results",
        "",
        "| arm | learning rate | test accuracy (interval over seeds) | collapse before | after"
        " | advantage variance before EDA | after | entropy, last quarter (nats per token)"
        " | extra completions | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| base model, untrained | - | {base.accuracy:.1%} | - | - | - | - | - | - | - |",
    ]
    for arm in arms:
        own = runs[arm.name]
        mean, low, high = t_interval([m.accuracy for m in own])
        cells = [
            arm.title,
            f"{chosen[arm.name]:g}",
            f"{mean:.1%} ({low:.1%} - {high:.1%})",
            figure(own, "collapse/before", "{:.1%}"),
            figure(own, "collapse/after", "{:.1%}"),
            figure(own, "advantage/variance_before", "{:.2f}"),
            figure(own, "advantage/variance", "{:.2f}"),
            figure(own, "late/entropy", "{:.3f}"),
            figure(own, "extra_completions", "{:.0f}"),
            figure(own, "seconds", "{:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Collapse: share of groups whose rewards are all equal, as sampled and after correction. Advantage variance:",
        "mean within-group variance over trained rows. Entropy: over tokens that the policy itself sampled. All are",
        "means over steps and seeds. Seconds: wall time of a run's steps, with another run alongside. SFT's learning",
        "rate decays to 5 % on a cosine schedule, the others' linearly to 0.",
        "",
    ]
    return "\n".join(lines)


_PAIRS = (
    ("edge", "grpo"),
    ("edge", "matched"),
    ("edge", "gec"),
    ("eda", "grpo"),
    ("gec", "grpo"),
    ("gec", "matched"),
    ("force-reflection", "grpo"),
    ("force-reflection-eda", "force-reflection"),
    ("edge-balanced", "edge"),
    ("grpo-dynamic", "grpo"),
)


def _differences(runs: Mapping[str, Sequence[Measured]]) -> str:
    lines = [
        "## Differences in accuracy, seed by seed",
        "",
        "| | points | interval over seeds | interval over problems | reading |",
        "|---|---|---|---|---|",
    ]
    for one, two in _PAIRS:
        (mean, low, high), (least, most) = paired_difference(runs[one], runs[two])
        reading = "no difference shown"
        if min(low, least) > 0:
            reading = "better"
        elif max(high, most) < 0:
            reading = "worse"
        lines.append(
            f"| {one} - {two} | {100 * mean:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} "
            f"| {100 * least:+.1f} to {100 * most:+.1f} | {reading} |"
        )
    return "\n".join([*lines, "", "An arm is called better or worse only where both intervals exclude 0.", ""])


def _checks(runs: Mapping[str, Sequence[Measured]]) -> str:
    """The claims fixed before the runs, each with its outcome."""

    def mean(arm: str, name: str) -> float:
        values = [float(m.figures[name]) for m in runs[arm]]
        return sum(values) / len(values)

    def above(one: str, two: str) -> tuple[bool, str]:
        (points, low, high), (least, _) = paired_difference(runs[one], runs[two])
        return min(low, least) > 0, f"{100 * points:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f} over seeds)"

    before, after = mean("grpo", "collapse/before"), mean("edge", "collapse/after")
    same = all(m.figures["collapse/before"] == m.figures["collapse/after"] for m in runs["eda"])
    entropies = mean("edge", "late/entropy"), mean("grpo", "late/entropy")
    claims: list[tuple[str, tuple[bool, str]]] = [
        ("without correction, at least 40 % of GRPO's groups collapse", (before >= 0.4, f"{before:.1%}")),
        ("after correction, fewer than 10 % of EDGE's groups collapse", (after < 0.1, f"{after:.1%}")),
        ("EDA alone leaves collapse unchanged", (same, "equal in every run" if same else "not equal")),
        (
            "EDGE keeps more entropy over sampled tokens than GRPO",
            (entropies[0] > entropies[1], f"{entropies[0]:.3f} vs. {entropies[1]:.3f} nats per token"),
        ),
        ("EDGE is more accurate than GRPO", above("edge", "grpo")),
        ("EDGE is more accurate than the supervision-matched control", above("edge", "matched")),
        ("EDA adds accuracy to correction alone", above("edge", "gec")),
    ]
    lines = ["## Claims fixed beforehand", "", "| claim | held | measured |", "|---|---|---|"]
    lines += [f"| {claim} | {'yes' if held else 'no'} | {found} |" for claim, (held, found) in claims]
    note = (
        "If EDGE beats GRPO but not the supervision-matched control, the gain comes from the extra supervision, "
        "not from how it is used."
    )
    return "\n".join([*lines, "", note, ""])
