"""``edge-grpo screen``: filter problems by how often a model solves them."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.base.errors import DataError
from edge_grpo.cli.launch import RERUN, Processes, launch, launched
from edge_grpo.cli.progress import target, waiting
from edge_grpo.cli.settings import Settings, config_for
from edge_grpo.runs.durable import write_whole

if TYPE_CHECKING:
    from edge_grpo.evaluation.pass_rates import Rate

__all__ = ["screen"]

_BAR = 30


def screen(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data file, saved dataset or hub dataset.")],
    settings: Settings = None,
    model: Annotated[str, typer.Option(metavar="DIR", help="Overrides model.path.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Sampled answers per problem.")] = 8,
    keep_rate: Annotated[str, typer.Option(metavar="LOW:HIGH", help="Pass rates to keep, inclusive.")] = "0:1",
    out: Annotated[str, typer.Option(metavar="FILE.jsonl", help="Write the kept rows here.")] = "",
    processes: Processes = 0,
) -> None:
    """Measure how often a model solves each problem of a data file, and keep those in a band of pass rates.

    Answers are sampled as in training (rollout.temperature, rollout.max_new_tokens, ...) and kept: a different band, or
    a repeat of an interrupted screening, reuses them.
    """
    path = target(out, source=data)
    config = config_for(settings, model)
    if launched(processes):
        raise typer.Exit(launch(processes, retry=RERUN))

    with waiting("loading the libraries"):  # model code, which a mistyped setting must not wait for
        from edge_grpo.base.world import join_world  # noqa: PLC0415
        from edge_grpo.cli.ask import ask  # noqa: PLC0415
        from edge_grpo.evaluation.answers import training_draws  # noqa: PLC0415
        from edge_grpo.evaluation.pass_rates import in_band, load_rows, parse_band, rates, write_rows  # noqa: PLC0415

    band = parse_band(keep_rate)
    draws, console = training_draws(config, samples), Console()
    world = join_world(config.distributed.timeout_s)
    with world.unbroken():
        benchmark, rows = world.each(lambda: load_rows(data, config.data))
        found = ask(config, [benchmark], draws, out="", kind="screen", console=console, world=world)
    if not world.is_first:
        return
    measured = rates(found.answers)
    lines = [{"problem": rate.problem, "right": rate.right, "answers": rate.answers} for rate in measured]
    write_whole(found.folder / "rates.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    kept = in_band(measured, band)
    console.print(f"{config.model.path} on {data}, {samples} answers per problem", markup=False, highlight=False)
    _print_histogram(console, [rate.value for rate in measured], samples, band)
    _print_collapse(console, {"all": measured, "kept": kept}, samples)
    if cut := sum(not answer.finished for answer in found.answers):
        console.print(
            f"{cut / len(found.answers):.1%} of the answers were cut at rollout.max_new_tokens="
            f"{config.rollout.max_new_tokens} tokens, before they ended; raise it",
            highlight=False,
            soft_wrap=True,
        )
    if config.rollout.group_size > samples:
        console.print(
            f"for groups of {config.rollout.group_size} (rollout.group_size), use as many --samples", highlight=False
        )
    unscored = sum(len(each.problems) for each in found.asked) - len(measured)
    if unscored:
        console.print(f"{unscored} problems have no gradable answer and are dropped", highlight=False)
    console.print(f"answers and rates.jsonl: {found.folder}", markup=False, highlight=False, soft_wrap=True)
    if path and not kept:
        raise DataError(f"--keep-rate: no problem has a pass rate in {keep_rate}; {out} is not written")
    if path:
        write_rows(path, kept, rows)
        console.print(f"{len(kept)} of {len(measured)} problems kept: {out}", markup=False, highlight=False)


def _print_histogram(console: Console, values: Sequence[float], samples: int, band: tuple[float, float]) -> None:
    """Histogram of pass rates, at most 17 bars."""
    step = max(1, -(-samples // 16))
    counts = Counter(min(samples, round(value * samples)) // step for value in values)
    table = Table("pass rate", "problems", "share", "", "", box=SIMPLE_HEAD, pad_edge=False)
    most = max(counts.values(), default=1)
    for bar in range(samples // step + 1):
        low, high = bar * step / samples, min(samples, bar * step + step - 1) / samples
        title = f"{low:.3f}" if step == 1 else f"{low:.3f} - {high:.3f}"
        inside = "kept" if band[0] <= low and high <= band[1] else ""
        count = counts[bar]
        share = f"{count / max(1, len(values)):.1%}"
        table.add_row(title, str(count), share, "█" * round(_BAR * count / most), inside)
    console.print(table)


def _print_collapse(console: Console, sides: "dict[str, list[Rate]]", samples: int) -> None:
    """Expected share of groups whose rewards are all equal, for group sizes up to the number of samples."""
    from edge_grpo.evaluation.pass_rates import expected_collapse  # noqa: PLC0415

    table = Table(title="collapsed groups, expected", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("problems", "group size", "collapsed", "all wrong", "all right"):
        table.add_column(title, justify="left" if title == "problems" else "right")
    sizes = sorted({size for size in (2, 4, 8, 16, 32, 64, samples) if 2 <= size <= samples})
    for name, measured in sides.items():
        for size in sizes if measured else ():
            one = expected_collapse(measured, size)
            table.add_row(name, str(size), *(f"{share:.1%}" for share in (one.total, one.all_wrong, one.all_right)))
    if sizes:
        console.print(table)
    if sizes and sides["kept"]:
        console.print(
            "kept: measured on the answers that selected the rows; fresh answers will be less extreme",
            highlight=False,
            soft_wrap=True,
        )
