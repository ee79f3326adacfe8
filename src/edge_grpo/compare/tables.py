"""Pieces that the pages of comparisons share."""

from collections.abc import Callable, Sequence

from edge_grpo.compare.runs import Arm, Measured, Study

__all__ = ["arms_list", "figure", "rates_table"]


def figure(own: Sequence[Measured], name: str, form: str) -> str:
    """The mean of a figure over runs; a dash where none has it."""
    values = [m.figures[name] for m in own if m.figures.get(name) is not None]
    return form.format(sum(values) / len(values)) if values else "-"


def rates_table(study: Study) -> str:
    """Validation accuracy of every arm at every rate."""
    arms, measured, chosen = study.arms, study.measured, study.rates
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
    """The settings that make each arm."""
    lines = ["## What the arms are", ""]
    for arm in arms:
        settings = " ".join(arm.overrides) or ("its own loop" if arm.supervised else "all defaults")
        lines.append(f"- **{arm.title}** (`{arm.name}`): `{settings}`")
    return "\n".join([*lines, ""])
