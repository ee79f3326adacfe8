"""``edge-grpo report`` and ``edge-grpo compare``: what training did, as a page and in the terminal."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.text import visible
from edge_grpo.cli.progress import target, waiting

if TYPE_CHECKING:
    from edge_grpo.report.run import Run

__all__ = ["compare", "report"]

_REST = 4  # times as long as it took, --watch rests between two looks

Runs = Annotated[list[str], typer.Argument(metavar="RUN ...", help="Run folders, finished or not.")]


def report(
    runs: Runs,
    *,
    out: Annotated[str, typer.Option(metavar="FILE", help="The page; an existing file is replaced.")] = "report.html",
    watch: Annotated[bool, typer.Option("--watch", help="Renew the page until no run is training any more.")] = False,
    every: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How often --watch looks for steps.")] = 10.0,
) -> None:
    """Write a report of runs: one HTML file with charts, collapse, always-dead prompts, and a rollout browser.

    Runs that differ in nothing but their seeds are shown as one, with intervals over the seeds.
    """
    path = target(out)
    assert path is not None, "--out has a default"
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out: got {out}, wanted a name that ends in .html")
    console = Console(stderr=True)
    seen: list[int] = []
    while True:
        began = time.monotonic()
        steps, is_live, notes = _renewed(runs, path, every if watch else 0, seen)
        if not (watch and is_live):
            break
        if not seen:
            _say(console, f"{path} follows the run; Ctrl-C ends this, not the run")
        seen = steps
        time.sleep(max(every, _REST * (time.monotonic() - began)))  # so that training is hardly slowed down
    for note in notes:
        _say(console, note)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")


def _renewed(
    names: Sequence[str], path: Path, every: float, seen: Sequence[int]
) -> tuple[list[int], bool, Sequence[str]]:
    """Write the page if there are steps that it does not show.

    Returns:
        the steps of each run, whether one is training, and what the page lacks.
    """
    from edge_grpo.report.page import page  # noqa: PLC0415 - imports pyarrow
    from edge_grpo.runs.durable import write_whole  # noqa: PLC0415

    with waiting("reading runs"):
        runs = _read(names, waits=every > 0)
    steps = [run.num_steps for run in runs]
    is_live = any(run.is_live for run in runs)
    if steps != seen or not is_live:
        with waiting(f"writing {path}"):
            text = page(runs, renew_s=max(5, round(every)) if every and is_live else 0)
            try:
                write_whole(path, text)
            except OSError as error:
                raise DataError(f"--out: {path} cannot be written ({error.strerror}); name another file") from None
    return steps, is_live, [note for run in runs for note in run.notes]


def _read(names: Sequence[str], *, waits: bool) -> list["Run"]:
    """The runs; ``waits`` for those that have not begun."""
    from edge_grpo.report.run import NothingLoggedError, read_run  # noqa: PLC0415 - imports pyarrow

    found, told = [], False
    for name in names:
        while True:
            try:
                found.append(read_run(name))
                break
            except NothingLoggedError as error:
                if not (waits and error.may_begin):
                    raise
            if not told:
                _say(Console(stderr=True), f"{name}: waiting for the first step")
                told = True
            time.sleep(1)
    return found


def _say(console: Console, text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def compare(runs: Runs) -> None:
    """Compare runs in the terminal: the figures of a report, with differences paired by seed.

    Runs that differ in nothing but their seeds are one arm; the first arm is what the others are compared with.
    """
    from edge_grpo.report.arms import arms_of  # noqa: PLC0415 - imports pyarrow
    from edge_grpo.report.outcomes import outcomes  # noqa: PLC0415

    with waiting("reading runs"):
        arms = arms_of(_read(runs, waits=False))
        figures = outcomes(arms)
    lettered = {_letters(number): arm for number, arm in enumerate(arms)}
    changes = [f"{letter} - A" for letter in list(lettered)[1:]]
    table = Table("figure", box=SIMPLE_HEAD, pad_edge=False)
    for column in (*lettered, *changes):
        table.add_column(column, justify="right")
    for one in figures:
        table.add_row(one.title, *one.cells())
    console = Console()
    for letter, arm in lettered.items():
        names = ", ".join(run.name for run in arm.runs)
        console.print(visible(f"{letter}: {arm.title} ({names})"), markup=False, highlight=False)
    console.print(table)
    console.print("In parentheses: 95% intervals over seeds; of differences, over pairs of runs with equal seeds.")
    done = {run.num_steps for arm in arms for run in arm.runs}
    if len(done) > 1:
        console.print(
            f"Caution: the runs have done {min(done)} to {max(done)} steps; their last figures are not comparable."
        )
    if any(change and change.count == 1 for one in figures for change in one.differences):
        console.print("A single pair has no interval: train several seeds to tell a difference from chance.")


def _letters(number: int) -> str:
    """A, B ... Z, AA, AB ..."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("A") + last)
