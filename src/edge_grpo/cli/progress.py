"""Progress on stderr and a check of ``--out``, for commands that run long and write a file."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.patience import if_it_lasts
from edge_grpo.base.ranks import is_first_rank

__all__ = ["ProgressBar", "target", "waiting"]


@contextmanager
def waiting(what: str, *, after_s: float = 2.0) -> Iterator[None]:
    """Say what a command is doing while nothing can be counted: a spinner in a terminal, else one line if it lasts.

    Args:
        what: such as "loading the model"; nothing else may be printed meanwhile.
        after_s: seconds until that line.
    """
    console = Console(stderr=True, quiet=not is_first_rank())
    if console.is_terminal:
        with console.status(escape(what)):
            yield
        return
    with if_it_lasts(
        lambda: console.print(f"{what} ...", markup=False, highlight=False, soft_wrap=True), after_s=after_s
    ):
        yield


class ProgressBar:
    """Progress: a bar in a terminal, otherwise an occasional line; of several ranks, only rank 0 shows it.

    Args:
        noun: what is counted, in the plural.
        every_s: seconds between lines where stderr is not a terminal.
    """

    def __init__(self, noun: str, *, every_s: float = 10.0) -> None:
        self._noun, self._every_s = noun, every_s
        self._console = Console(stderr=True, quiet=not is_first_rank())
        columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._live: AbstractContextManager[Any] = self._bar if self._console.is_terminal else nullcontext()
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` are done."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)
        if not self._console.is_terminal and time.monotonic() - self._said > self._every_s:
            self._said = time.monotonic()
            self._console.print(f"{done} of {total} {self._noun}", highlight=False)


def target(out: str, *, source: str | Path = "", option: str = "--out") -> Path | None:
    """The file that ``option`` names, links resolved; None if empty. Call it before the work starts.

    Raises:
        ConfigError: not a regular file, the input file itself, or in a folder that does not exist.
    """
    if not out:
        return None
    path = Path(out).expanduser().resolve()
    if path.exists() and not path.is_file():
        raise ConfigError(f"{option}: {out} is not a regular file; name a file to write")
    if source and path.exists() and Path(source).expanduser().exists() and path.samefile(Path(source).expanduser()):
        raise ConfigError(f"{option}: {out} is the input file; name another one")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}: no such folder: {path.parent}; create it first")
    return path
