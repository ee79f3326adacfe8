"""Pieces that the pages of comparisons share."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_grpo.evaluation.intervals import difference_interval, t_interval
from studies.runs import Arm, Comparison, Measured

__all__ = ["arms_list", "figure", "paired_difference", "rates_table", "write_parts"]


def paired_difference(
    one: Sequence[Measured], two: Sequence[Measured]
) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """Accuracy of ``one`` minus that of ``two``, seed by seed on the same problems.

    Returns:
        mean with Student's 95 % interval over seeds, and the 95 % interval over problems, each problem's difference
        averaged over seeds first.
    """
    pairs = list(zip(one, two, strict=True))
    over_seeds = t_interval([a.accuracy - b.accuracy for a, b in pairs])
    by_problem = [sum(a.flags[i] - b.flags[i] for a, b in pairs) / len(pairs) for i in range(len(one[0].flags))]
    return over_seeds, difference_interval(by_problem)


def figure(own: Sequence[Measured], name: str, form: str) -> str:
    """The mean of a figure over runs; a dash where no run has it."""
    values = [m.figures[name] for m in own if m.figures.get(name) is not None]
    return form.format(sum(values) / len(values)) if values else "-"


def rates_table(comparison: Comparison) -> str:
    """Validation accuracy of every arm at every learning rate."""
    arms, measured, chosen = comparison.arms, comparison.measured, comparison.rates
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


def arms_list(arms: Sequence[Arm]) -> str:
    """The settings that define each arm."""
    lines = ["## What the arms are", ""]
    for arm in arms:
        settings = " ".join(arm.overrides) or ("its own loop" if arm.supervised else "all defaults")
        lines.append(f"- **{arm.title}** (`{arm.name}`): `{settings}`")
    return "\n".join([*lines, ""])


def write_parts(out: Path, parts: Sequence[str]) -> None:
    """Write a page from its parts; its folder is created."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(parts), encoding="utf-8")
