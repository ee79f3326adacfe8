"""The console: a live table in a terminal, plain lines elsewhere, and a summary at the end of a run."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edge_grpo.base.quiet import silence_stdout
from edge_grpo.base.records import Verdict
from edge_grpo.trackers.base import Tracker

__all__ = ["Display", "LiveDisplay", "Output", "PlainDisplay", "Silent", "decoding", "summary"]

_COLUMNS = (
    ("step", "step", "{:.0f}", ""),
    ("reward", "reward/before", "{:.2f}", ""),
    ("accuracy", "accuracy", "{:.1%}", ""),
    ("pairs", "rewards/accuracies", "{:.1%}", ""),
    ("entropy", "entropy", "{:.3f}", "nats"),
    ("collapse", "collapse/before", "{:.0%}", ""),
    ("after", "collapse/after", "{:.0%}", ""),
    ("", "time/tokens_per_s", "{:.0f}", "tokens/s"),
    ("held-out", "eval/accuracy", "{:.1%}", ""),
)  # title, name, form, unit
_SHOWN = 12
_MANY_CUT = 0.5  # shown from this share of completions on that were cut at the token budget
_TROUBLE = (Verdict.UNPARSED, Verdict.TIMEOUT, Verdict.ERROR)  # shown only where they occur


class Output(Console):
    """Standard output that may be closed while a run goes on (``| head``): what is printed later is dropped."""

    def on_broken_pipe(self) -> None:
        """Print nothing more, and leave nothing for the interpreter to flush at exit; rich would exit here."""
        self.quiet = True
        if self.file is sys.stdout:
            silence_stdout()


@runtime_checkable
class Display(Tracker, Protocol):
    """A tracker that the user watches: it also shows messages and progress."""

    def start(self, total: int, done: int, *, max_tokens: int = 0, tokens: int = 0) -> None:
        """A run starts, or resumes after ``done`` steps with ``tokens`` sampled tokens.

        It ends after ``total`` steps or ``max_tokens`` tokens (0 = no bound).
        """

    def say(self, message: str) -> None:
        """Show one line."""


class Silent:
    """Shows nothing."""

    def start(self, total: int, done: int, *, max_tokens: int = 0, tokens: int = 0) -> None:
        """Ignored."""

    def say(self, message: str) -> None:
        """Ignored."""

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Ignored."""

    def rewind(self, step: int | None) -> None:
        """Ignored."""

    def close(self) -> None:
        """Ignored."""


class PlainDisplay:
    """One line per step, for logs and pipes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._pace = _Pace(0, 0, 0, 0)

    def start(self, total: int, done: int, *, max_tokens: int = 0, tokens: int = 0) -> None:
        """Remember where the run starts, to estimate the time left."""
        self._pace = _Pace(total, done, max_tokens, tokens)

    def say(self, message: str) -> None:
        """Print a line."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Print the main figures of a step."""
        self._pace.advance(step, row)
        figures = [f"step {self._pace}"]
        for title, name, form, unit in _COLUMNS[1:]:
            if _known(row, name):
                figures.append(" ".join(filter(None, (title, form.format(row[name]), unit))))
        if _known(row, "eval/accuracy"):
            figures[-1] += f" ({_interval(row)})"
        if (cut := row.get("length/unfinished") or 0.0) >= _MANY_CUT:
            figures.append(f"cut {cut:.0%}")
        figures += [f"{name} {row[f'verdict/{name}']:.0%}" for name in _TROUBLE if row.get(f"verdict/{name}")]
        if (left := self._pace.left()) is not None:
            figures.append(f"left {_duration(left)}")
        self.say("  ".join(figures))

    def rewind(self, step: int | None) -> None:
        """Nothing to do: printed lines stay."""

    def close(self) -> None:
        """Nothing to clean up."""


class LiveDisplay:
    """A progress bar with the time left, above a table of the last steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: list[Mapping[str, Any]] = []
        self._seen: set[str] = set()
        self._pace = _Pace(0, 0, 0, 0)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[step]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("training", total=None, step="")
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def start(self, total: int, done: int, *, max_tokens: int = 0, tokens: int = 0) -> None:
        """Start drawing."""
        self._pace = _Pace(total, done, max_tokens, tokens)
        self._bar.update(self._task, total=1.0, completed=self._pace.share, step=str(self._pace))
        self._live.start()
        self._live.update(self._bar)

    def say(self, message: str) -> None:
        """Print a line above the table."""
        self.console.print(message, markup=False, highlight=False)

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Move the bar and add a line to the table."""
        self._pace.advance(step, row)
        self._bar.update(self._task, completed=self._pace.share, step=str(self._pace))
        row = {"step": step, **row}
        self._seen |= {name for _, name, *_ in _COLUMNS if _known(row, name)}
        self._rows = [*self._rows, row][-_SHOWN:]
        self._live.update(Group(self._bar, self._table()))

    def rewind(self, step: int | None) -> None:
        """Nothing to do: the table starts with the steps of this process."""

    def close(self) -> None:
        """Leave the last table on the screen."""
        if self._live.is_started:
            self._live.stop()
            self.console.print(self._table())

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1))
        columns = [column for column in _COLUMNS if column[1] in self._seen]
        for title, _, _, unit in columns:
            table.add_column(", ".join(filter(None, (title, unit))), justify="right")
        for row in self._rows:
            table.add_row(*(form.format(row[name]) if _known(row, name) else "" for _, name, form, _ in columns))
        return table


class _Pace:
    """Progress of a run in steps or sampled tokens, whichever ends it sooner; timed from the start of this process."""

    def __init__(self, total: int, done: int, max_tokens: int, tokens: float) -> None:
        self._total, self._step, self._max_tokens, self._tokens = total, done, max_tokens, tokens
        self._since, self._begun = time.monotonic(), self.share

    def __str__(self) -> str:
        return f"{self._step}/{self._total}"

    @property
    def share(self) -> float:
        """The share of the run that is done."""
        by_step = self._step / self._total if self._total else 1.0
        return min(1.0, max(by_step, self._tokens / self._max_tokens if self._max_tokens else 0.0))

    def advance(self, step: int, row: Mapping[str, float | None]) -> None:
        """Count a step."""
        self._step, self._tokens = step, self._tokens + (row.get("tokens") or 0)

    def left(self) -> float | None:
        """Seconds to the end; None before the first step."""
        gained = self.share - self._begun
        return (time.monotonic() - self._since) / gained * (1 - self.share) if gained > 0 else None


def _known(row: Mapping[str, Any], name: str) -> bool:
    """Whether there is a figure to show; a speed of 0 only means that nothing was sampled."""
    value = row.get(name)
    return value is not None and not math.isnan(value) and (value > 0 or name != "time/tokens_per_s")


def _duration(seconds: float) -> str:
    """A time with its units, to two digits of the smaller one.

    Example:
        >>> _duration(4.6), _duration(70), _duration(7500)
        ('5 s', '1 min 10 s', '2 h 05 min')
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def decoding(temperature: float) -> str:
    """How completions are drawn, as text."""
    return f"temperature {temperature:g}" if temperature else "greedy"


def summary(rows: Sequence[Mapping[str, Any]], *, sampled: str = "samples", held_out: str = "") -> Table | Text:
    """The table at the end of a run: first versus last evaluation, first versus last steps.

    Args:
        rows: the run's metrics.
        sampled: how training completions are drawn, see :func:`decoding`.
        held_out: how held-out problems are answered.
    """
    evaluated = [row for row in rows if _known(row, "eval/accuracy")]
    trained = [row for row in rows if row["step"] > 0]
    if not trained and not evaluated:
        return Text("nothing was trained or evaluated")
    table = Table(title="before and after training", title_justify="left")
    for title in ("", "start", "end"):
        table.add_column(title, justify="left" if not title else "right")
    when = ""
    if evaluated:
        ends = [
            [row for row in evaluated if row["step"] == 0][:1],
            [row for row in evaluated if row["step"] > 0][-1:],
        ]  # either may not have been evaluated
        title = ", ".join(filter(None, ("held-out accuracy", held_out)))
        table.add_row(title, *(f"{own[0]['eval/accuracy']:.1%}" if own else "not evaluated" for own in ends))
        table.add_row("  95% interval", *(_interval(own[0]) if own else "" for own in ends))
        table.add_row("  best evaluation", "", f"{max(row['eval/accuracy'] for row in evaluated):.1%}")
        at = [f"{row['step']:.0f}" for own in ends for row in own]
        when = f"held-out: step{'s' if len(at) > 1 else ''} {' and '.join(at)}; other rows: "
    if trained:
        few = max(1, min(5, len(trained) // 2))
        early, late = trained[:few], trained[-few:]
        few_rows = [*early, *late]
        for title, name, form in (
            (f"training accuracy, {sampled}", "accuracy", "{:.1%}"),
            ("pairs, chosen above rejected", "rewards/accuracies", "{:.1%}"),
            ("mean reward margin of pairs", "rewards/margins", "{:.3f}"),
            ("log-probability of chosen", "logps/chosen", "{:.1f}"),
            ("mean reward of samples", "reward/before", "{:.2f}"),
            ("collapsed groups, sampled", "collapse/before", "{:.0%}"),
            ("collapsed groups, trained", "collapse/after", "{:.0%}"),
            ("entropy (nats per token)", "entropy", "{:.3f}"),
            ("completion length (tokens)", "length/sampled", "{:.1f}"),
            *((f"verdict {name}", f"verdict/{name}", "{:.1%}") for name in _TROUBLE),
        ):
            if any(_known(row, name) and (row[name] or not name.startswith("verdict/")) for row in few_rows):
                table.add_row(title, *(_mean(part, name, form) for part in (early, late)))
        table.caption = when + ("first and last step" if few == 1 else f"first and last {few} steps")
        table.caption_justify = "left"
    return table


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['eval/accuracy_low']:.1%} - {row['eval/accuracy_high']:.1%}"


def _mean(rows: Sequence[Mapping[str, Any]], name: str, form: str) -> str:
    values = [row[name] for row in rows if _known(row, name)]
    return form.format(sum(values) / len(values)) if values else ""
