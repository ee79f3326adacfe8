"""Rows of JSONL and parquet files: only the columns that are asked for, a batch at a time."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import DataError
from edge_grpo.report.sources.records import Ledger

__all__ = [
    "SUFFIXES",
    "Advance",
    "first_row",
    "json_rows",
    "message_text",
    "number",
    "parquet_batches",
    "parquet_rows",
    "schema_names",
]

SUFFIXES: Final = (".parquet", ".jsonl")
"""The files that can hold rollouts."""

Advance = Callable[[int], None]
"""Told how many further bytes have been read."""

_BATCH: Final = 16_384
_PEEK: Final = 50  # rows that are looked at to tell what the columns are


def first_row(path: Path, ledger: Ledger) -> Mapping[str, Any] | None:
    """The columns of a file, each with a value of its first rows (None = there is none); None for a file without rows.

    Args:
        path: the file.
        ledger: counts the unreadable lines before and among those rows; of a file without rows, all of them.
    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix == ".parquet":
        names = schema_names(path)
        parts = parquet_rows(path, names, lambda _: None, batch=_PEEK)
        rows: Iterator[Mapping[str, Any]] = (dict(zip(names, row, strict=True)) for row in parts)
    else:
        rows = json_rows(path, ledger, lambda _: None)
    merged: dict[str, Any] = {}
    for row in islice(rows, _PEEK):
        for name, value in row.items():
            if merged.get(name) is None and not (isinstance(value, float) and math.isnan(value)):
                merged[name] = value
            merged.setdefault(name, None)
    return merged or None


def schema_names(path: Path) -> list[str]:
    """The names of a parquet file's columns.

    Raises:
        DataError: the file cannot be read.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow imports, needed here only

    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {_brief(error)}") from None
    return names


def parquet_batches(path: Path, columns: Sequence[str], advance: Advance, *, batch: int = _BATCH) -> Iterator[Any]:
    """Some columns of a parquet file as pyarrow record batches; a dotted name is a field of a nested column.

    Raises:
        DataError: the file cannot be read.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            total, size = max(file.metadata.num_rows, 1), path.stat().st_size
            for part in file.iter_batches(batch, columns=list(columns)):
                yield part
                advance(size * part.num_rows // total)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {_brief(error)}") from None


def parquet_rows(
    path: Path, columns: Sequence[str], advance: Advance, *, batch: int = _BATCH
) -> Iterator[tuple[Any, ...]]:
    """The values of some columns of a parquet file, row by row.

    Raises:
        DataError: the file cannot be read.
    """
    for part in parquet_batches(path, columns, advance, batch=batch):
        lists = {name: part.column(name).to_pylist() for name in part.schema.names}
        yield from zip(*(lists[name] for name in columns), strict=True)


def json_rows(path: Path, ledger: Ledger, advance: Advance) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSONL file; blank lines are skipped, lines that hold no object are counted in ``ledger``.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, 1):
                advance(len(line))
                if not line.strip():
                    continue
                row = _object(line.removeprefix(b"\xef\xbb\xbf") if count == 1 else line)
                if isinstance(row, str):
                    ledger.bad_line(f"{path.name}, line {count}", row)
                else:
                    yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _object(line: bytes) -> Mapping[str, Any] | str:
    """The object on a line, or why there is none."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except (ValueError, RecursionError):
        return "a number or a nesting too long to be read"
    return row if isinstance(row, dict) else f"holds {type(row).__name__}, wanted an object"


def number(value: object) -> float | None:
    """A finite number, also one written as text; None for anything else.

    Example:
        >>> number("0.5"), number(True), number(float("nan")), number([1])
        (0.5, 1.0, None, None)
    """
    if not isinstance(value, int | float | str | Decimal):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def message_text(value: object) -> str:
    """The text of a prompt or completion: text as it is, of a conversation all turns with their roles.

    Example:
        >>> message_text([{"role": "user", "content": "1+1?"}])
        'user: 1+1?'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
        return "\n".join(f"{turn['role']}: {_content(turn.get('content'))}" for turn in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _content(value: object) -> str:
    if isinstance(value, list):
        return "".join(str(part.get("text", f"<{part.get('type')}>")) for part in value if isinstance(part, dict))
    return "" if value is None else str(value)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
