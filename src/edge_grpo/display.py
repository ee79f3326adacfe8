"""What a person sees while a run goes on: a live table in a terminal, plain lines elsewhere, and a table at the end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edge_grpo.records import Verdict

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "Silent", "decoding", "summary"]

_COLUMNS = (
    ("step", "step", "{:.0f}"),
    ("reward", "reward/before", "{:.2f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("entropy", "entropy", "{:.3f}"),
    ("collapse", "collapse/before", "{:.0%}"),
    ("after", "collapse/after", "{:.0%}"),
    ("tokens/s", "time/tokens_per_s", "{:.0f}"),
    ("held-out", "eval/accuracy", "{:.1%}"),
)
_SHOWN = 12
_TROUBLE = (Verdict.UNPARSED, Verdict.TIMEOUT, Verdict.ERROR)  # named in a line only where there are any


@runtime_checkable
class Display(Protocol):
    """Told of what happens; decides how it looks."""

    def start(self, total: int, done: int) -> None:
        """A run of ``total`` steps begins, ``done`` of which are done already."""

    def say(self, message: str) -> None:
        """One line for the person."""

    def row(self, row: Mapping[str, float]) -> None:
        """A row of metrics was written."""

    def stop(self) -> None:
        """The run ended, well or not."""


class Silent:
    """Shows nothing."""

    def start(self, total: int, done: int) -> None:
        """Ignored."""

    def say(self, message: str) -> None:
        """Ignored."""

    def row(self, row: Mapping[str, float]) -> None:
        """Ignored."""

    def stop(self) -> None:
        """Ignored."""


class PlainDisplay:
    """One line a step, for logs and pipes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._total = 0
        self._pace = _Pace()

    def start(self, total: int, done: int) -> None:
        """Remember where the run stands, for the time left."""
        self._total = total
        self._pace.start(done)

    def say(self, message: str) -> None:
        """Print a line."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def row(self, row: Mapping[str, float]) -> None:
        """Print a row's main figures."""
        figures = [f"step {row['step']:.0f}/{self._total}"]
        figures += [f"{title} {form.format(row[name])}" for title, name, form in _COLUMNS[1:] if _known(row, name)]
        if _known(row, "eval/accuracy"):
            figures[-1] += f" ({_interval(row)})"
        figures += [f"{name} {row[f'verdict/{name}']:.0%}" for name in _TROUBLE if row.get(f"verdict/{name}")]
        if row["step"] > self._pace.done:
            figures.append(f"left {_clock(self._pace.left(int(row['step']), self._total))}")
        self.say("  ".join(figures))

    def stop(self) -> None:
        """Nothing to clear away."""


class LiveDisplay:
    """A progress bar with the time left over a table of the last steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: list[Mapping[str, float]] = []
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("training", total=None)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def start(self, total: int, done: int) -> None:
        """Begin to draw."""
        self._bar.update(self._task, total=total, completed=done)
        self._live.start()
        self._live.update(self._bar)

    def say(self, message: str) -> None:
        """Print a line above the table."""
        self.console.print(message, markup=False, highlight=False)

    def row(self, row: Mapping[str, float]) -> None:
        """Move the bar and add a line to the table."""
        self._bar.update(self._task, completed=row["step"])
        self._rows = [*self._rows, row][-_SHOWN:]
        self._live.update(Group(self._bar, self._table()))

    def stop(self) -> None:
        """Leave the last table on the screen."""
        if self._live.is_started:
            self._live.stop()
            self.console.print(self._table())

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1))
        for title, *_ in _COLUMNS:
            table.add_column(title, justify="right")
        for row in self._rows:
            table.add_row(*(form.format(row[name]) if _known(row, name) else "" for _, name, form in _COLUMNS))
        return table


class _Pace:
    """Seconds a step, measured from the start of this process."""

    def __init__(self) -> None:
        self._since, self.done = time.monotonic(), 0

    def start(self, done: int) -> None:
        self._since, self.done = time.monotonic(), done

    def left(self, step: int, total: int) -> float:
        return (time.monotonic() - self._since) / max(1, step - self.done) * (total - step)


def _known(row: Mapping[str, float], name: str) -> bool:
    return row.get(name) is not None and row[name] == row[name]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"


def decoding(temperature: float) -> str:
    """How completions are drawn, in words."""
    return f"temperature {temperature:g}" if temperature else "greedy"


def summary(rows: Sequence[Mapping[str, Any]], *, sampled: str = "samples", held_out: str = "") -> Table | Text:
    """The table at the end of a run: first against last evaluation, first against last steps.

    Args:
        rows: the run's metrics.
        sampled: how training completions are drawn, see :func:`decoding`.
        held_out: how held-out problems are answered.
    """
    evaluated = [row for row in rows if _known(row, "eval/accuracy")]
    trained = [row for row in rows if _known(row, "accuracy")]
    if not trained and not evaluated:
        return Text("nothing was trained or evaluated")
    table = Table(title="before and after training", title_justify="left")
    for title in ("", "start", "end"):
        table.add_column(title, justify="left" if not title else "right")
    if evaluated:
        first, last = evaluated[0], evaluated[-1]
        best = max(row["eval/accuracy"] for row in evaluated)
        title = ", ".join(filter(None, ("held-out accuracy", held_out)))
        table.add_row(title, *(f"{row['eval/accuracy']:.1%}" for row in (first, last)))
        table.add_row("  95 % interval", _interval(first), _interval(last))
        table.add_row("  best evaluation", "", f"{best:.1%}")
    if trained:
        few = max(1, min(5, len(trained) // 2))
        early, late = trained[:few], trained[-few:]
        few_rows = [*early, *late]
        for title, name, form in (
            (f"training accuracy, {sampled}", "accuracy", "{:.1%}"),
            ("mean reward of samples", "reward/before", "{:.2f}"),
            ("collapsed groups, sampled", "collapse/before", "{:.0%}"),
            ("collapsed groups, trained", "collapse/after", "{:.0%}"),
            ("entropy (nats a token)", "entropy", "{:.3f}"),
            ("completion length (tokens)", "length/sampled", "{:.1f}"),
            *((f"verdict {name}", f"verdict/{name}", "{:.1%}") for name in _TROUBLE),
        ):
            if any(_known(row, name) and (row[name] or not name.startswith("verdict/")) for row in few_rows):
                table.add_row(title, form.format(_mean(early, name)), form.format(_mean(late, name)))
        steps = "1 step" if few == 1 else f"{few} steps"
        table.caption = f"held-out: first and last evaluation; else {steps} at each end"
        table.caption_justify = "left"
    return table


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['eval/accuracy_low']:.1%} - {row['eval/accuracy_high']:.1%}"


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    values = [row[name] for row in rows if _known(row, name)]
    return sum(values) / len(values) if values else float("nan")
