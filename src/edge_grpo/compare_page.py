"""Statistics and the Markdown page of the comparison. Every number comes from the runs; none is typed by hand."""

import json
import math
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_grpo.config import Config, config_hash, to_tree

__all__ = ["Arm", "Measured", "paired_difference", "t_interval", "write_page"]

_T975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
_RESAMPLES = 2000


@dataclass(frozen=True)
class Arm:
    """A row of the comparison: its short name, its title, and the settings that make it."""

    name: str
    title: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What one run gave: right or wrong on each problem, and figures of its training steps."""

    arm: str
    rate: float
    seed: int
    flags: tuple[bool, ...]
    validation: float
    figures: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of right answers on the test problems."""
        return sum(self.flags) / len(self.flags)

    @classmethod
    def read(cls, file: Path, *, arm: str, rate: float, seed: int) -> "Measured":
        """A run's ``result.json``."""
        held = json.loads(file.read_text(encoding="utf-8"))
        validation = sum(held["validation"]) / len(held["validation"])
        return cls(arm, rate, seed, tuple(held["test"]), validation, held)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    r"""Mean and 95 % interval over seeds.

    .. math:: \bar x \pm t_{0.975,\, n-1}\, s / \sqrt n

    Args:
        values: one a seed, 1 to 10 of them; a single one has no interval (NaN).
    Source: Student 1908, Biometrika 6:1.
    Example:
        >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan, math.nan
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    half = _T975[n] * spread / math.sqrt(n)
    return mean, mean - half, mean + half


def paired_difference(
    one: Sequence[Measured], two: Sequence[Measured]
) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """Accuracy of ``one`` minus that of ``two``, seed by seed on the same problems.

    Returns:
        mean with the 95 % t-interval over seeds, and the 95 % percentile interval of a bootstrap over problems (each
        problem's difference averaged over seeds first).
    """
    over_seeds = t_interval([a.accuracy - b.accuracy for a, b in zip(one, two, strict=True)])
    pairs = list(zip(one, two, strict=True))
    by_problem = [sum(a.flags[i] - b.flags[i] for a, b in pairs) / len(pairs) for i in range(len(one[0].flags))]
    rng = random.Random(0)
    means = sorted(sum(rng.choices(by_problem, k=len(by_problem))) / len(by_problem) for _ in range(_RESAMPLES))
    return over_seeds, (means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES)])


def write_page(
    out: Path,
    arms: Sequence[Arm],
    measured: Sequence[Measured],
    chosen: Mapping[str, float],
    *,
    base: Measured,
    config: Config,
    overrides: Sequence[str],
) -> None:
    """Write the results page.

    Args:
        out: the Markdown file.
        arms: in the order of the table.
        measured: all runs, those of the learning-rate search included.
        chosen: each arm's rate.
        base: the untrained model.
        config: what all arms share.
        overrides: what was changed from the embedded default.
    """
    runs = {
        arm.name: sorted(
            (m for m in measured if m.arm == arm.name and m.rate == chosen[arm.name]), key=lambda m: m.seed
        )
        for arm in arms
    }
    seeds = len(runs[arms[0].name])
    parts = [
        _head(config, seeds, base, overrides),
        _table(arms, runs, chosen, base),
        _differences(runs),
        _checks(runs),
        _rates(arms, measured, chosen),
        _arms(arms),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(parts), encoding="utf-8")


def _head(config: Config, seeds: int, base: Measured, overrides: Sequence[str]) -> str:
    rollout = config.rollout
    changed = f" with `{' '.join(overrides)}`" if overrides else ""
    return f"""# EDGE-GRPO and its parts on built-in arithmetic

Written by `edge-grpo compare{" " + " ".join(overrides) if overrides else ""}`; every number below is printed by that
command. The embedded default{changed} (configuration {config_hash(to_tree(config))}): the bundled model,
{config.train.steps} steps of {rollout.prompts_per_step} prompts x {rollout.group_size} completions, the same prompts in
the same order for every arm, {seeds} seeds, one CPU thread a run ({platform.machine()}, Python
{platform.python_version()}). Each arm's learning rate is the best of the same three on
{len(base.figures["validation"])} validation problems (seed 0); accuracy is greedy, on {len(base.flags)} other
held-out problems. Intervals are 95 %.
A small model on a small task: this shows how the parts act, not how a 7B model fares.
"""


def _table(
    arms: Sequence[Arm], runs: Mapping[str, Sequence[Measured]], chosen: Mapping[str, float], base: Measured
) -> str:
    lines = [
        "## Results",
        "",
        "| arm | rate | test accuracy (interval over seeds) | collapse before | after | advantage variance before EDA"
        " | after | entropy, last quarter (nats) | extra completions | seconds |",
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
            _figure(own, "collapse/before", "{:.1%}"),
            _figure(own, "collapse/after", "{:.1%}"),
            _figure(own, "advantage/variance_before", "{:.2f}"),
            _figure(own, "advantage/variance", "{:.2f}"),
            _figure(own, "late/entropy", "{:.3f}"),
            _figure(own, "extra_completions", "{:.0f}"),
            _figure(own, "seconds", "{:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Collapse: share of groups whose rewards are all equal, as sampled and after correction. Advantage variance:",
        "mean variance within a group over trained rows. Entropy: over tokens that the policy sampled itself. All are",
        "means over steps and seeds. Seconds: wall time of a run's steps, with another run beside it. SFT's rate falls",
        "by a cosine to 5 %, that of the others linearly to 0.",
        "",
    ]
    return "\n".join(lines)


def _figure(own: Sequence[Measured], name: str, form: str) -> str:
    values = [m.figures[name] for m in own if m.figures.get(name) is not None]
    return form.format(sum(values) / len(values)) if values else "-"


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
    return "\n".join([*lines, "", "Better or worse is said only where both intervals exclude 0.", ""])


def _checks(runs: Mapping[str, Sequence[Measured]]) -> str:
    """The claims fixed before the runs, each with what came out."""

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
        ("without correction at least 40 % of GRPO's groups collapse", (before >= 0.4, f"{before:.1%}")),
        ("after correction fewer than 10 % of EDGE's groups collapse", (after < 0.1, f"{after:.1%}")),
        ("EDA alone leaves collapse exactly as it was", (same, "equal in every run" if same else "not equal")),
        (
            "EDGE keeps more entropy over sampled tokens than GRPO",
            (entropies[0] > entropies[1], f"{entropies[0]:.3f} against {entropies[1]:.3f} nats"),
        ),
        ("EDGE is more accurate than GRPO", above("edge", "grpo")),
        ("EDGE is more accurate than the supervision-matched control", above("edge", "matched")),
        ("EDA adds accuracy to correction alone", above("edge", "gec")),
    ]
    lines = ["## Claims fixed beforehand", "", "| claim | held | measured |", "|---|---|---|"]
    lines += [f"| {claim} | {'yes' if held else 'no'} | {found} |" for claim, (held, found) in claims]
    note = (
        "If EDGE beats GRPO but not the supervision-matched control, the gain is that of the extra supervision, "
        "not of the way it is used."
    )
    return "\n".join([*lines, "", note, ""])


def _rates(arms: Sequence[Arm], measured: Sequence[Measured], chosen: Mapping[str, float]) -> str:
    rates = sorted({m.rate for m in measured})
    titles: Callable[[float], str] = "{:g}".format
    lines = [
        "## Choice of the learning rate",
        "",
        f"| arm | {' | '.join(map(titles, rates))} |",
        f"|---|{'---|' * len(rates)}",
    ]
    for arm in arms:
        found = {m.rate: m.validation for m in measured if m.arm == arm.name and m.seed == 0}
        cells = [f"**{found[rate]:.1%}**" if rate == chosen[arm.name] else f"{found[rate]:.1%}" for rate in rates]
        lines.append(f"| {arm.title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Validation accuracy from seed 0; the chosen rate in bold.", ""])


def _arms(arms: Sequence[Arm]) -> str:
    lines = ["## What the arms are", ""]
    for arm in arms:
        settings = " ".join(arm.overrides) or ("its own loop" if arm.name == "sft" else "all defaults")
        lines.append(f"- **{arm.title}** (`{arm.name}`): `{settings}`")
    return "\n".join([*lines, ""])
