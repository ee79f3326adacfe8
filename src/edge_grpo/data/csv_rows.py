"""Rows of a CSV file, by the names in its header."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edge_grpo.base.errors import DataError
from edge_grpo.data.bad_rows import BadRowError

__all__ = ["csv_rows"]


def csv_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    """The rows with the number of the line on which each one begins; bad ones as errors.

    Cells are text, separated by commas and quoted with ``"`` where needed; an empty cell is null.

    Args:
        file: what to read.
        path: its name in messages.
    Raises:
        DataError: the file cannot be read, or its header names a column twice.
    """
    csv.field_size_limit(2**31 - 1)  # a long solution is no error; the default stops at 128 KiB
    try:
        opened = file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with opened:
        reader = csv.reader(opened, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise DataError(f"{path}, line {line}: not CSV: {error}") from None
                yield line, BadRowError(f"not CSV: {error}")
                continue
            if not cells:
                continue
            if header is None:
                header = _checked(cells, path)
            else:
                yield line, _row(header, cells)


def _checked(header: list[str], path: str) -> list[str]:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the header names column {twice[0]!r} more than once; rename one of them")
    return header


def _row(header: list[str], cells: list[str]) -> object:
    """The row, or what is wrong with it."""
    if len(cells) != len(header):
        return BadRowError(f"{len(cells)} cells, but the header names {len(header)} columns; quote cells with commas")
    for name, cell in zip(header, cells, strict=True):
        if any("\udc80" <= letter <= "\udcff" for letter in cell):
            return BadRowError(f"field '{name}': not UTF-8 text")
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}
