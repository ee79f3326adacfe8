"""What commands share that take long and write a file: progress on stderr, and a check of where the file goes."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edge_grpo.base.errors import ConfigError

__all__ = ["Shown", "target"]

_EVERY_S = 10.0  # between two lines of progress where no terminal shows a bar


class Shown:
    """How many of how many things are done: a bar in a terminal, now and then a line elsewhere; a context manager.

    Args:
        noun: what is counted.
    """

    def __init__(self, noun: str) -> None:
        self._noun, self._console = noun, Console(stderr=True)
        columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._live: AbstractContextManager[Any] = self._bar if self._console.is_terminal else nullcontext()
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> "Shown":
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        """So many of so many are done."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)
        if not self._console.is_terminal and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            self._console.print(f"{done} of {total} {self._noun}", highlight=False)


def target(out: str, *, source: str | Path = "") -> Path | None:
    """The file that ``--out`` names, links followed; to be asked before the work begins. None where it names none.

    Raises:
        ConfigError: it is no ordinary file, is the one that is read, or its folder is not there.
    """
    if not out:
        return None
    path = Path(out).expanduser().resolve()
    if path.exists() and not path.is_file():
        raise ConfigError(f"--out: {out} is no ordinary file; name a file to be written")
    if source and path.exists() and Path(source).expanduser().exists() and path.samefile(Path(source).expanduser()):
        raise ConfigError(f"--out: {out} is the file that is read; name another one")
    if not path.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {path.parent}; make it first")
    return path
