"""``edge-grpo diagnose``: dead groups in anybody's rollouts, what they cost, and what would revive them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_grpo.base.text import counted, on_one_line
from edge_grpo.cli.progress import ProgressBar, target

if TYPE_CHECKING:
    from edge_grpo.report.diagnosis import Diagnosis, Span, Tally
    from edge_grpo.report.groups import Kind
    from edge_grpo.report.remedies import Remedy

__all__ = ["diagnose"]

_MEGABYTE = 1_000_000
_MANY = 4  # kinds of groups: with more, columns are closer, so that the table fits a terminal of 80
_IN_TWO = {
    "useful": "useful",
    "near-constant": "near-\nconstant",
    "all wrong": "all\nwrong",
    "all right": "all\nright",
    "equal": "equal",
    "unscorable": "unscor-\nable",
}
"""The kinds as titles of columns."""
_BESIDE = 36  # columns of the terminal that a prompt leaves to what is said of it


def diagnose(
    source: Annotated[str, typer.Argument(metavar="FILE_OR_FOLDER", help="A run's folder, or a .parquet or .jsonl.")],
    reward: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="The rewards; given more than once: their sum.")
    ] = None,
    group: Annotated[str, typer.Option(metavar="COLUMN", help="What tells the groups of a step apart.")] = "",
    prompt: Annotated[
        str, typer.Option(metavar="COLUMN", help="The prompts, which define the groups if no column does.")
    ] = "",
    step: Annotated[str, typer.Option(metavar="COLUMN", help="The training step.")] = "",
    correct: Annotated[str, typer.Option(metavar="COLUMN", help="Whether an answer is right: 1 or 0.")] = "",
    tokens: Annotated[str, typer.Option(metavar="COLUMN", help="Tokens of a completion: a number, or a list.")] = "",
    completion: Annotated[str, typer.Option(metavar="COLUMN", help="The text of a completion.")] = "",
    group_size: Annotated[int, typer.Option(min=0, metavar="N", help="Completions of a group; 0 = as found.")] = 0,
    prompts: Annotated[int, typer.Option(min=0, metavar="N", help="How many always-dead prompts to list.")] = 10,
    every_step: Annotated[bool, typer.Option("--every-step", help="Show each step, not ranges of them.")] = False,
    html: Annotated[str, typer.Option(metavar="FILE.html", help="Write the page here.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Find dead groups, whose advantages are all zero, in the rollouts of a run, and say what would revive them.

    Reads what this project, TRL (log_completions), verl (rollout_data_dir), prime-rl (traces) and OpenRLHF (batch
    inference) write, and any rows with a reward and a prompt or group.
    """
    path = target(html, source=source, option="--html")
    from edge_grpo.report.diagnosis import diagnose as made  # noqa: PLC0415 - pyarrow and more, slow to import
    from edge_grpo.report.diagnosis import in_ranges, plain  # noqa: PLC0415
    from edge_grpo.report.remedies import remedies  # noqa: PLC0415
    from edge_grpo.report.sources import Asked, read_rollouts  # noqa: PLC0415

    single = {"group": group, "prompt": prompt, "step": step, "correct": correct}
    single |= {"tokens": tokens, "completion": completion}
    named = {role: [column] for role, column in single.items() if column} | ({"reward": reward} if reward else {})
    with ProgressBar("MB") as bar:
        rollouts = read_rollouts(
            source, Asked(named, group_size), lambda done, total: bar(done // _MEGABYTE, -(-total // _MEGABYTE))
        )
    found = made(rollouts)
    ways = remedies(found)
    spans = found.spans if every_step else in_ranges(found.spans)
    if path:
        from edge_grpo.report.diagnosis_page import write_page  # noqa: PLC0415

        write_page(path, found, spans, ways, title=source, prompts=prompts)
    if as_json:
        print(json.dumps(plain(found, ways, prompts), indent=2, allow_nan=False))
        return
    console = Console()
    _print_source(console, found)
    _print_steps(console, found, spans)
    _print_cost(console, found)
    _print_prompts(console, found, prompts)
    _print_remedies(console, ways, found)
    if path:
        _say(console, f"wrote {html}; open it in a browser")


def _say(console: Console, text: str, *, indent: str = "") -> None:
    console.print(indent + on_one_line(text), markup=False, highlight=False, soft_wrap=True)


def _print_source(console: Console, found: "Diagnosis") -> None:
    _say(
        console,
        f"{found.rollouts.name}: {counted(found.overall.completions, 'completion')} in "
        f"{counted(found.overall.groups, 'group')} of {found.size_range}, {counted(found.rollouts.files, 'file')}",
    )
    for line in (*map(str, found.rollouts.columns), *(f"note: {note}" for note in found.notes)):
        _say(console, line, indent="  ")


def _print_steps(console: Console, found: "Diagnosis", spans: "Sequence[Span]") -> None:
    """Shares of groups by kind, per step or range of steps; kinds that do not occur have no column."""
    from edge_grpo.report.groups import Kind  # noqa: PLC0415

    overall = found.overall
    kinds = [kind for kind in Kind if overall.kinds[kind] or kind in (Kind.USEFUL, Kind.ALL_WRONG, Kind.ALL_RIGHT)]
    some = len(spans) < found.steps
    title = f"{found.steps:,} steps in {len(spans)} ranges (--every-step shows each)" if some else "steps"
    titles = ("step", "groups", *(_IN_TWO[str(kind)] for kind in kinds), "effective\nbatch", f"wasted\n{found.unit}")
    gap = 1 if len(kinds) > _MANY else 2
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
    for place, name in enumerate(titles):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for span in spans if spans[0].first is not None else ():
        table.add_row(str(span), *_cells(span.tally, kinds))
    table.add_section()
    table.add_row("all", *_cells(overall, kinds))
    console.print(table, "", sep="\n")


def _cells(tally: "Tally", kinds: "Sequence[Kind]") -> list[str]:
    shares = (tally.share(kind) for kind in kinds)
    wasted = tally.wasted / tally.cost if tally.cost else 0.0
    return [f"{tally.groups:,}", *(f"{s:.1%}" for s in (*shares, tally.effective / tally.completions, wasted))]


def _print_cost(console: Console, found: "Diagnosis") -> None:
    tally = found.overall
    share = tally.effective / tally.completions
    each = f", {tally.effective / found.steps:,.1f} a step" if found.steps > 1 else ""
    _say(
        console,
        f"effective batch: {tally.effective:,} of {counted(tally.completions, 'completion')} ({share:.1%}){each}: "
        "those that were scored, in groups that are not dead",
    )
    why = {"tokens": "", "characters": "; token counts are not known of all", "completions": "; lengths are not known"}
    wasted = tally.wasted / tally.cost if tally.cost else 0.0
    _say(
        console,
        f"wasted {found.unit}: {tally.wasted:,} of {tally.cost:,} ({wasted:.1%}), those of dead groups"
        f"{why[found.unit]}",
    )


def _print_prompts(console: Console, found: "Diagnosis", most: int) -> None:
    """How many prompts were dead each time, and the first of them."""
    dead = found.always_dead
    again = sum(one.times > 1 for one in dead)
    _say(
        console,
        f"always-dead prompts: {len(dead):,} of {counted(found.prompts, 'prompt')}, {again:,} of them seen more than "
        "once",
    )
    if not dead or not most:
        return
    table = Table("times", "kind", "prompt", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].justify = "right"
    room = max(console.width - _BESIDE, _BESIDE)
    for one in dead[:most]:
        kinds = ", ".join(str(kind) if len(one.kinds) == 1 else f"{n} {kind}" for kind, n in one.kinds.items())
        table.add_row(f"{one.times:,}", kinds, escape(on_one_line(one.prompt, room)))
    console.print(table)
    if len(dead) > most:
        _say(console, f"and {len(dead) - most:,} more (--prompts N)")


def _print_remedies(console: Console, ways: "Sequence[Remedy]", found: "Diagnosis") -> None:
    """What each would recover, and below the table what that assumes."""
    tally = found.overall
    now = f", {tally.completions / tally.live:,.1f} completions per live group" if tally.live else ""
    table = Table(
        title=f"what remedies would recover (now {tally.live / tally.groups:.1%} of groups are live{now})",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for title in ("remedy", "", "live\ngroups", "groups\nrevived", "completions per\nlive group"):
        table.add_column(title, justify="left" if title in ("remedy", "") else "right")
    for number, one in enumerate(ways, 1):
        if one.missing:
            table.add_row(f"{number} {one.name}", "-", "", "", "")
            continue
        before = "" if one.before is None or one.before == tally.live / tally.groups else f"\n(from {one.before:.1%})"
        between = "" if one.low is None or one.high is None else f"\n{one.low:.0%}-{one.high:.0%}"
        table.add_row(
            f"{number} {one.name}",
            one.reading,
            "" if one.live is None else f"{one.live:.1%}{before}{between}",
            "" if one.revived is None else f"{one.revived:,.0f}",
            "" if one.completions is None else f"{one.completions:,.1f}",
        )
    console.print(table)
    told: dict[str, list[str]] = {}
    for number, one in enumerate(ways, 1):
        text = f"not estimated: {one.missing}" if one.missing else f"assuming that {one.assumption}"
        told.setdefault(text, []).append(str(number))
    for text, numbers in told.items():
        console.print(f"{', '.join(numbers)} {text}", markup=False, highlight=False)
