"""Rows of JSON, JSONL and parquet files, saved and hub datasets, with a precise message for each bad one."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Pair, Problem
from edge_grpo.base.text import lone_surrogate
from edge_grpo.data.bad_rows import BadRowError
from edge_grpo.data.csv_rows import csv_rows
from edge_grpo.data.hub import Part, dataset_rows, is_saved

__all__ = [
    "FILES",
    "BadRowError",
    "check_subset",
    "described",
    "is_text",
    "joined",
    "load_records",
    "optional",
    "required",
    "row_id",
]

FILES = (".json", ".jsonl", ".parquet", ".csv")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


T = TypeVar("T", Problem, Pair)


def load_records(
    path: str,
    record: Callable[[Mapping[str, object], str], T],
    *,
    split: str,
    split_setting: str,
    subset: str = "",
    subset_setting: str = "data.subset",
    fields_setting: str,
    id_field: str,
    noun: str,
    bad_rows: Literal["error", "skip"],
) -> tuple[tuple[T, ...], int]:
    """Load records from the rows of a file, a saved dataset or a hub dataset, in order.

    Args:
        path: a ``.json`` (list of objects), ``.jsonl`` or ``.parquet`` file, a folder (saved by ``save_to_disk``, or a
            copy of a hub dataset), or a hub name.
        record: builds a record from a row and its default id, file name and row number (line number in a JSONL file),
            counted from 1. Raises ``BadRowError`` if it cannot.
        split: which split of a dataset to read; files have none.
        split_setting: the setting that chooses the split, for messages; likewise ``subset_setting`` for the subset and
            ``fields_setting`` for the columns.
        subset: which subset (configuration) of a hub dataset to read; empty = the only one.
        id_field: the column whose values must be unique.
        noun: what the records are called, for messages.
        bad_rows: ``skip`` drops unusable rows and counts them.

    Returns:
        the records, and how many rows were skipped.

    Raises:
        DataError: the path is missing or unreadable, has no usable row, or, unless ``bad_rows`` is ``skip``, has an
            unusable row.
    """
    kept: list[T] = []
    seen: dict[str, int] = {}
    first_error = ""
    skipped = 0
    part = Part(split, split_setting, subset, subset_setting)
    for number, row in _rows_of(path, part):
        try:
            one = record(_object(row), f"{Path(path).stem}:{number}")
            if one.id in seen:
                raise BadRowError(f"field '{id_field}': {one.id!r} is also the id of row {seen[one.id]}")
        except BadRowError as error:
            message = f"{path}, row {number}, {error}"
            if bad_rows == "error":
                usual = f"Fix the row, name its columns ({fields_setting}.*), or set data.bad_rows=skip"
                raise DataError(f"{message}. {error.remedy or usual}") from None
            first_error = first_error or (f"{message}. {error.remedy}" if error.remedy else message)
            skipped += 1
            continue
        seen[one.id] = number
        kept.append(one)
    if not kept:
        reason = f"all {skipped} rows are bad; the first: {first_error}" if skipped else "it has no rows"
        raise DataError(f"{path}: no {noun} to read: {reason}")
    return tuple(kept), skipped


def joined(parts: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    """The records of several sources, in order; if an earlier source has a record's id, ``17`` of source 2 is ``17#2``.

    Raises:
        DataError: the longer id is taken, too.
    """
    kept: dict[str, T] = {}
    for number, part in enumerate(parts, 1):
        for one in part:
            name = f"{one.id}#{number}" if one.id in kept else one.id
            if name in kept:
                raise DataError(f"several sources have ids {one.id!r} and {name!r}; make the ids unique")
            kept[name] = one if name == one.id else replace(one, id=name)
    return tuple(kept.values())


def check_subset(paths: Sequence[str], subset: str, setting: str) -> None:
    """Reject a subset if there are only files, which have none.

    Raises:
        DataError: there are only files.
    """
    if subset and all(Path(path).suffix.lower() in FILES for path in paths):
        raise DataError(
            f"{setting}: got {subset!r}, but {paths[0]} is a file, and files have no subsets; leave it empty"
        )


def _object(row: object) -> Mapping[str, object]:
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"holds {described(row)}, wanted an object")
    return row


def _rows_of(path: str, part: Part) -> Iterator[tuple[int, object]]:
    try:
        file = Path(path).expanduser()
        is_file, is_folder = file.is_file(), file.is_dir()
    except (OSError, RuntimeError) as error:  # a folder without access, a user that does not exist
        raise DataError(f"{path}: cannot be accessed: {error}") from None
    suffix = file.suffix.lower()
    if suffix in FILES:
        if not is_file:
            raise DataError(f"{path}: no such file")
        readers = {".json": _json_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows, ".csv": csv_rows}
        return readers[suffix](file, path)
    if is_file:
        raise DataError(f"{path}: unknown file type; wanted one of {', '.join(FILES)}")
    if is_folder:
        return enumerate(dataset_rows(str(file), part, saved=is_saved(file)), 1)
    if _HUB_NAME.fullmatch(path):
        return enumerate(dataset_rows(path, part, saved=False), 1)
    raise DataError(f"{path}: no such file or folder, and not the name of a hub dataset")


class _LongInteger(str):
    """The digits of an integer that Python refuses to parse."""

    __slots__ = ()


def _parse(text: str) -> Any:
    """Parse JSON, but keep integers of thousands of digits as text, to be reported once their field is known."""

    def integer(digits: str) -> int | str:
        try:
            return int(digits)
        except ValueError:
            return _LongInteger(digits)

    return json.loads(text, parse_int=integer)


def _json_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    try:
        rows = _parse(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: lists or objects are nested too deeply to be read") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds {described(rows)}, wanted a list of objects")
    return enumerate(rows, 1)


def _jsonl_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _jsonl_row(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _jsonl_row(line: bytes) -> object:
    """The content of a line, or what is wrong with it."""
    try:
        return _parse(line.decode())
    except UnicodeDecodeError as error:
        return BadRowError(f"byte {error.start + 1} of the line: not UTF-8 text")
    except json.JSONDecodeError as error:
        return BadRowError(f"column {error.colno}: not JSON: {error.msg}")
    except RecursionError:
        return BadRowError("column 1: lists or objects are nested too deeply to be read")


def _parquet_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 (heavy, and needed for parquet files only)
    from pyarrow import ArrowException  # noqa: PLC0415

    try:
        table = pq.read_table(file)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None
    try:
        return enumerate(table.to_pylist(), 1)
    except (ArrowException, ValueError, OverflowError):  # some row has invalid text, or a date Python cannot represent
        return ((number, _parquet_row(table.slice(number - 1, 1))) for number in range(1, len(table) + 1))


def _parquet_row(table: Any) -> object:
    """The one row of a table, or what is wrong with it."""
    try:
        (row,) = table.to_pylist()
    except UnicodeDecodeError as error:
        return BadRowError(f"byte {error.start + 1} of a text: not UTF-8")
    except (ValueError, OverflowError) as error:  # an ArrowException is a ValueError, or an OSError while reading
        return BadRowError(f"cannot be read: {error}")
    return row


def is_text(value: object, name: str) -> TypeGuard[str]:
    """Whether the value of field ``name`` is text. Raises ``BadRowError`` for invalid text."""
    if not isinstance(value, str) or isinstance(value, _LongInteger):
        return False
    if broken := lone_surrogate(value):
        raise BadRowError(f"field '{name}': {broken}")
    return True


def required(row: Mapping[str, object], name: str) -> object:
    """The value of field ``name``, which may lie inside objects (``reward_model.ground_truth``).

    Raises:
        BadRowError: the row has none.
    """
    found, missing = _reach(row, name)
    if missing:
        raise BadRowError(f"field '{name}': {missing}")
    return found


def optional(row: Mapping[str, object], name: str) -> object:
    """The value of field ``name``, or None if the row has none."""
    return _reach(row, name)[0]


def _reach(row: Mapping[str, object], name: str) -> tuple[object, str]:
    """The value of a field, and what is missing on the way to it. A column whose own name has the dots comes first."""
    if name in row:
        return row[name], ""
    outer = next((name[:at] for at, mark in reversed([*enumerate(name)]) if mark == "." and name[:at] in row), None)
    if outer is None:
        return None, f"missing; the row has {', '.join(map(repr, row)) or 'no fields'}"
    inner = _as_object(row[outer])
    if inner is None:
        return None, f"'{outer}' holds {described(row[outer])}, wanted an object"
    found, missing = _reach(inner, name[len(outer) + 1 :])
    return found, missing and missing.replace("the row has", f"'{outer}' has", 1)


def _as_object(value: object) -> Mapping[str, object] | None:
    """An object, or one written as JSON text, as CSV files and some datasets have it."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = _parse(value)
        except (json.JSONDecodeError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def row_id(row: Mapping[str, object], name: str, default: str) -> str:
    """The row's own id, or the default. Raises ``BadRowError`` for an id of the wrong type."""
    given = optional(row, name)
    if given is not None and (isinstance(given, bool) or not (isinstance(given, int) or is_text(given, name))):
        raise BadRowError(f"field '{name}': {described(given)}, wanted text or a whole number")
    return default if given is None else str(given)


def described(value: object) -> str:
    """The kind of a bad row's value, for its message."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, _LongInteger):
        return f"an integer of {len(value.lstrip('-'))} digits (write it as text)"
    if isinstance(value, str):
        return "empty text" if not value.strip() else "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"{type(value).__name__} {str(value)[:80]}"
