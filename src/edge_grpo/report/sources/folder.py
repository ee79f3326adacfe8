"""Which files of a file or folder hold rollouts, in which format, and their completions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.text import counted
from edge_grpo.report.sources import openrlhf, own, prime_rl, trl, verl
from edge_grpo.report.sources.columns import Asked, Layout, guessed, read_columns, step_in
from edge_grpo.report.sources.records import Ledger, Rollouts
from edge_grpo.report.sources.rows import SUFFIXES, Advance, first_row, schema_names

__all__ = ["read_rollouts"]


@dataclass(frozen=True)
class _File:
    """A file with rows: its columns, a value of each, and its format (empty = to be guessed)."""

    path: Path
    names: Sequence[str]
    first: Mapping[str, Any]
    format: str


@dataclass
class _LeftOut:
    """Files without rows to read: empty ones, those of which no line can be read, and names of those with other rows.

    ``ledger`` counts the lines of the unreadable ones.
    """

    empty: int = 0
    unreadable: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    others: list[str] = field(default_factory=list)

    def without_rows(self) -> list[str]:
        """What the files without any row are, and the first line that cannot be read."""
        told = [counted(self.empty, "empty file")] if self.empty else []
        if self.unreadable:
            lines = f"{counted(self.ledger.bad_lines, 'unreadable line')}, the first: {self.ledger.first_bad}"
            told.append(f"{counted(self.unreadable, 'file')} without a readable row ({lines})")
        return told


def read_rollouts(source: str | Path, asked: Asked, progress: Callable[[int, int], None] | None = None) -> Rollouts:
    """The completions of a file or folder, whatever wrote it.

    Args:
        source: a ``.parquet`` or ``.jsonl`` file, or a folder of them, such as a run.
        asked: what the user said of the columns.
        progress: told how many bytes of how many have been read.
    Raises:
        ConfigError: a column that the user named does not exist, or cannot be chosen.
        DataError: there is nothing to read, it cannot be read, or the files have several formats.
    """
    root = Path(source).expanduser()
    known, left = _opened(_candidates(root), asked)
    formats = {file.format: file for file in reversed(known)}
    if len(formats) > 1:
        told = ", ".join(f"{name or 'other columns'} ({file.path.name})" for name, file in sorted(formats.items()))
        raise DataError(f"{root}: holds rollouts of several formats: {told}; name the file or folder of one of them")
    if not known:
        raise DataError(f"{root}: no rollouts: {'; '.join(left.without_rows())}; wanted rows of completions")
    done, total = 0, sum(file.path.stat().st_size for file in known)

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(min(done, total), total)

    found = _read(known, asked, advance)
    if not found.completions:
        raise DataError(f"{root}: no rollouts: {'; '.join(found.notes) or 'no rows'}")
    notes = [f"{each} left out" for each in left.without_rows()]
    if left.others:
        notes.append(f"{counted(len(left.others), 'file')} without rollouts left out, such as {left.others[0]}")
    return replace(found, notes=[*notes, *found.notes])


def _candidates(root: Path) -> list[Path]:
    """The files that may hold rollouts, in the order of the numbers in their names."""
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise DataError(f"{root}: unknown file type; wanted {' or '.join(SUFFIXES)}, or a folder of them")
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    traces = sorted(root.rglob(prime_rl.FILE), key=_order)
    if traces:
        return _training(root, traces)
    for inside in (own.FOLDER, trl.FOLDER):
        if any(path.suffix in SUFFIXES for path in (root / inside).glob("*")):
            root = root / inside
            break
    if (root / "config.yaml").is_file() and (root / "metrics.jsonl").is_file():
        raise DataError(f"{root}: this run has no rollouts: run.rollouts=false, or they were deleted")
    direct = [path for path in root.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    files = direct or [path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    runs = {path.parent for path in files if path.parent.name == own.FOLDER}
    if len(runs) > 1:
        raise DataError(
            f"{root}: holds the rollouts of {len(runs)} runs, such as {min(runs).parent.name}; name one run"
        )
    if not files:
        raise DataError(f"{root}: no {' or '.join(SUFFIXES)} file in it; name a run's folder or a file of rollouts")
    return sorted(files, key=_order)


def _training(root: Path, traces: Sequence[Path]) -> list[Path]:
    """Of prime-rl's traces, those of training, and all of them rather than those that filters left."""
    inside = [path for path in traces if "eval" not in path.relative_to(root).parts] or list(traces)
    return [path for path in inside if "all" in path.relative_to(root).parts] or inside


def _order(path: Path) -> tuple[Any, ...]:
    """Sorts ``10.jsonl`` behind ``9.jsonl``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)))


def _opened(paths: Sequence[Path], asked: Asked) -> tuple[list[_File], _LeftOut]:
    """The files with rollouts, and what the others are.

    Files whose columns must be guessed are taken for rollouts if they are alone or fit what the user named or guesses.
    """
    files, left = [], _LeftOut()
    for path in paths:
        names = schema_names(path) if path.suffix == ".parquet" else []
        ledger = Ledger()
        first = first_row(path, ledger)
        if first is None:
            left.empty += not ledger.bad_lines
            left.unreadable += bool(ledger.bad_lines)
            left.ledger.add_lines(ledger)
            continue
        file = _File(path, names or list(first), first, _format(names or list(first), first))
        if not file.format and len(paths) > 1 and not _fits(file, asked):
            left.others.append(path.name)
        else:
            files.append(file)
    if not files and left.others:
        path = next(path for path in paths if path.name == left.others[0])
        first = first_row(path, Ledger()) or {}
        guessed(list(first), first, asked, path)  # says what is missing
    return files, left


def _fits(file: _File, asked: Asked) -> bool:
    try:
        guessed(file.names, file.first, asked, file.path)
    except (ConfigError, DataError):
        return False
    return True


def _format(names: Sequence[str], first: Mapping[str, Any]) -> str:
    if own.is_own(names):
        return "edge-grpo"
    if prime_rl.is_prime_rl(first):
        return "prime-rl traces"
    if trl.is_trl(names):
        return "TRL"
    if verl.is_verl(names):
        return "verl"
    return "OpenRLHF" if openrlhf.is_openrlhf(names) else ""


def _read(files: Sequence[_File], asked: Asked, advance: Advance) -> Rollouts:
    """The completions of files of one format."""
    one, paths = files[0], [file.path for file in files]
    if one.format in ("edge-grpo", "prime-rl traces") and asked.option():
        raise ConfigError(f"{asked.option()}: {one.path} is a file of {one.format}, whose columns are known; leave it")
    match one.format:
        case "edge-grpo":
            return own.read_own(paths, advance)
        case "prime-rl traces":
            return prime_rl.read_prime_rl(paths, advance)
        case "TRL":
            return trl.read_trl(paths, one.names, one.first, asked, advance)
        case "verl":
            known: Mapping[str, Sequence[str]] | None = verl.KNOWN
        case "OpenRLHF":
            known = openrlhf.KNOWN
        case _:
            known = None
    layout: Layout = replace(
        guessed(_all_names(files), one.first, asked, one.path, known), name=one.format or "rows of unknown origin"
    )
    found = read_columns(paths, layout, asked, advance)
    if "step" not in layout.roles and step_in(paths[0]) is not None:
        return replace(found, notes=[*found.notes, "the step is the number in the names of the files or folders"])
    return found


def _all_names(files: Sequence[_File]) -> list[str]:
    """The columns of all files; rows of JSONL may lack some."""
    if files[0].path.suffix == ".parquet":
        return list(files[0].names)
    return list(dict.fromkeys(name for file in files for name in file.names))
