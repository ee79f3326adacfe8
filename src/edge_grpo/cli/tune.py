"""``edge-grpo tune``."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from edge_grpo.cli.progress import waiting
from edge_grpo.runs.durable import write_whole

__all__ = ["tune"]

_MARK = {"failed": "failed", "late": "too late", "stopped": "stopped early"}


class YesNo(StrEnum):
    """A flag with an explicit value."""

    true = "true"
    false = "false"


def tune(
    space: Annotated[str, typer.Argument(metavar="SPACE.yaml", help="The search space; docs/tuning.md describes it.")],
    jobs: Annotated[int, typer.Option(min=1, help="Parallel trials, one thread each.")] = 1,
    trials: Annotated[int, typer.Option(min=0, help="Overrides the file's number; 0 keeps it.")] = 0,
    decomposed: Annotated[
        YesNo, typer.Option(help="false: learn from the weighted sum of the scores only.")
    ] = YesNo.true,
    out: Annotated[str, typer.Option(metavar="DIR", help="The study's folder; default: one under runs/tune.")] = "",
) -> None:
    """Search training settings by the scores of all parts: trials, a table, a page, and the best configuration.

    Repeat the command to resume an interrupted search: finished trials are kept, a running one continues from its
    checkpoint. Ctrl-C stops running trials cleanly.
    """
    with waiting("loading the libraries"):
        from edge_grpo.tune.kernels import StationarySettings, make_kernel  # noqa: PLC0415
        from edge_grpo.tune.page import page  # noqa: PLC0415
        from edge_grpo.tune.space_file import load_space  # noqa: PLC0415
        from edge_grpo.tune.study import BEST, Study  # noqa: PLC0415

        wanted = load_space(space)
        make_kernel(StationarySettings(), dims=1)  # a missing extra is reported now, not after the first trials
    wanted = replace(wanted, trials=trials) if trials else wanted
    study = Study(wanted, decomposed=decomposed is YesNo.true, folder=out, name=Path(space).stem)
    console = Console()

    def write_page(known: Sequence[Any]) -> Any:
        then = study.suggestion(known, number=len(known) + 1)
        shown = page(wanted, known, then, decomposed=study.decomposed, resolutions=study.resolutions, title=space)
        write_whole(study.folder / "page.html", shown)
        return then

    def tell(known: Sequence[Any], trial: Any) -> None:
        console.print(_line(wanted, known, trial), markup=False, highlight=False, soft_wrap=True)
        write_page(known)

    with study.opened():
        known = study.recovered()
        where = f"study: {study.folder}" + (f", {len(known)} trials already finished" if known else "")
        console.print(where, markup=False, highlight=False, soft_wrap=True)
        known = study.run(jobs=jobs, on_trial=tell)
        then = write_page(known)
    _print_whole(console, _table(wanted, known))
    console.print(_next_line(then), markup=False, highlight=False, soft_wrap=True)
    best = study.folder / BEST
    console.print(f"page: {study.folder / 'page.html'}   best: {best}", markup=False, highlight=False, soft_wrap=True)


def _print_whole(console: Console, table: Table) -> None:
    """Print a table with all its columns, wider than the terminal if need be."""
    least = Measurement.get(Console(width=10_000), Console(width=10_000).options, table).minimum
    wide = console if least <= console.width else Console(width=least, file=console.file)
    wide.print(table, soft_wrap=wide is not console)


def _line(space: Any, known: Sequence[Any], trial: Any) -> str:
    """A finished trial in one line."""
    from edge_grpo.tune.page import brief  # noqa: PLC0415
    from edge_grpo.tune.record import best_of  # noqa: PLC0415

    settings = "  ".join(f"{name.rpartition('.')[2]} {brief(value)}" for name, value in trial.settings.items())
    best = best_of(known)
    came = f"{trial.whole:.4f}" if trial.whole is not None else f"{_MARK[trial.state]} ({trial.reason})"
    so_far = f"  best {best.whole:.4f}" if best else ""
    return f"{trial.number}/{space.trials}  {settings}  {came}  {trial.seconds:.0f} s{so_far}"


def _table(space: Any, trials: Sequence[Any]) -> Table:
    """All trials with their scores, the best one in bold."""
    from edge_grpo.tune.page import brief  # noqa: PLC0415
    from edge_grpo.tune.record import best_of  # noqa: PLC0415

    best, parts = best_of(trials), list(space.objective.parts)
    names = ["", *(name.rpartition(".")[2] for name in space.space), *parts, "whole", "best", "s"]
    rows = []
    for place, trial in enumerate(trials, 1):
        so_far = best_of(trials[:place])
        rows.append(
            [
                str(trial.number),
                *(brief(trial.settings[name]) for name in space.space),
                *(f"{trial.parts[name]:.3f}" if name in trial.parts else "-" for name in parts),
                f"{trial.whole:.3f}" if trial.whole is not None else trial.state,
                f"{so_far.whole:.3f}" if so_far else "-",
                f"{trial.seconds:.0f}",
            ]
        )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, *cells in zip(names, *rows, strict=True):
        table.add_column(escape(name), justify="right", overflow="fold", min_width=max(map(len, cells), default=0))
    for trial, cells in zip(trials, rows, strict=True):
        table.add_row(*map(escape, cells), style="bold" if trial is best else None)
    return table


def _next_line(then: Any) -> str:
    """The next point to try."""
    from edge_grpo.tune.space import shown  # noqa: PLC0415

    if then is None:
        return "every point of the space has been tried"
    words = " ".join(f"{name}={shown(value)}" for name, value in then.point.items())
    return f"next: {words}" + ("" if then.mean is None else f"   expected {then.mean:.4f} +- {then.deviation:.4f}")
