"""Rows of JSON, JSONL and parquet files, of saved and of hub datasets, and what is said of a bad one."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from edge_grpo.base.errors import DataError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.base.records import Pair, Problem
from edge_grpo.base.text import lone_surrogate

__all__ = ["FILES", "BadRowError", "described", "is_text", "load_records", "required", "row_id"]

FILES = (".json", ".jsonl", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class BadRowError(Exception):
    """What is wrong with one row; the reader adds where it stands."""


T = TypeVar("T", Problem, Pair)


def load_records(
    path: str,
    record: Callable[[Mapping[str, object], str], T],
    *,
    split: str,
    split_setting: str,
    fields_setting: str,
    id_field: str,
    noun: str,
    bad_rows: Literal["error", "skip"],
) -> tuple[tuple[T, ...], int]:
    """What the rows of a file, a saved dataset or a hub dataset say, in their order.

    Args:
        path: a ``.json`` (list of objects), ``.jsonl`` or ``.parquet`` file, a ``save_to_disk`` folder, or a hub name.
        record: makes something of a row and the name it has if it names none: file and number (the line of a JSONL
            file, counted from 1). Raises ``BadRowError`` where it cannot.
        split: of a dataset that has several; files have none.
        split_setting: the setting that says so, for messages; likewise ``fields_setting``, which names columns.
        id_field: the column that must not hold the same twice.
        noun: what the records are, for messages.
        bad_rows: ``skip`` leaves unusable rows out and counts them.

    Returns:
        the records, and how many rows were left out.

    Raises:
        DataError: nothing there, not readable, no usable row, or, unless ``bad_rows`` is ``skip``, an unusable row.
    """
    kept: list[T] = []
    seen: dict[str, int] = {}
    first_error = ""
    skipped = 0
    for number, row in _rows_of(path, split, split_setting):
        try:
            one = record(_object(row), f"{Path(path).stem}:{number}")
            if one.id in seen:
                raise BadRowError(f"field '{id_field}': {one.id!r} is also the id of row {seen[one.id]}")
        except BadRowError as error:
            message = f"{path}, row {number}, {error}"
            if bad_rows == "error":
                raise DataError(
                    f"{message}. Mend the row, name its columns ({fields_setting}.*), or set data.bad_rows=skip"
                ) from None
            first_error = first_error or message
            skipped += 1
            continue
        seen[one.id] = number
        kept.append(one)
    if not kept:
        reason = f"all {skipped} rows are bad; the first: {first_error}" if skipped else "it has no rows"
        raise DataError(f"{path}: no {noun} to read: {reason}")
    return tuple(kept), skipped


def _object(row: object) -> Mapping[str, object]:
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"holds {described(row)}, wanted an object")
    return row


def _rows_of(path: str, split: str, split_setting: str) -> Iterator[tuple[int, object]]:
    try:
        file = Path(path).expanduser()
        is_file, is_folder = file.is_file(), file.is_dir()
    except (OSError, RuntimeError) as error:  # a folder that may not be entered, a user that does not exist
        raise DataError(f"{path}: cannot be looked for: {error}") from None
    suffix = file.suffix.lower()
    if suffix in FILES:
        if not is_file:
            raise DataError(f"{path}: no such file")
        readers = {".json": _json_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
        return readers[suffix](file, path)
    if is_file:
        raise DataError(f"{path}: unknown kind of file; wanted one of {', '.join(FILES)}")
    if is_folder:
        return enumerate(_dataset(str(file), split, split_setting, saved=True), 1)
    if _HUB_NAME.fullmatch(path):
        return enumerate(_dataset(path, split, split_setting, saved=False), 1)
    raise DataError(f"{path}: no such file or folder, nor the name of a hub dataset")


class _LongInteger(str):
    """The digits of an integer that Python refuses to read."""

    __slots__ = ()


def _parse(text: str) -> Any:
    """JSON, save that an integer of some thousand digits stays text, to be complained of where its field is known."""

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
    """What a line holds, or what is wrong with it."""
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
    except (ArrowException, ValueError, OverflowError):  # in some row: texts that are none, dates that Python lacks
        return ((number, _parquet_row(table.slice(number - 1, 1))) for number in range(1, len(table) + 1))


def _parquet_row(table: Any) -> object:
    """The one row of a table, or what is wrong with it."""
    try:
        (row,) = table.to_pylist()
    except UnicodeDecodeError as error:
        return BadRowError(f"byte {error.start + 1} of a text: not UTF-8")
    except (ValueError, OverflowError) as error:  # ArrowException is a ValueError, or an OSError of reading
        return BadRowError(f"cannot be read: {error}")
    return row


def _dataset(name: str, split: str, split_setting: str, *, saved: bool) -> Iterable[object]:
    try:
        import datasets  # noqa: PLC0415 (heavy, and needed for datasets only)
    except ImportError:
        raise DataError(f"{name}: reading a dataset needs the package 'datasets' (pip install datasets)") from None
    try:
        with quiet_failures():
            found: Any = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split)
    except Exception as error:  # noqa: BLE001 (the library and its file systems raise errors of many kinds)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        kind = "saved dataset" if saved else f"hub dataset (split {split!r})"
        hint = "" if saved else " There is no such file or folder either"
        raise DataError(f"{name}: cannot be loaded as a {kind}: {lines[0].rstrip('.')}.{hint}") from None
    if isinstance(found, dict):
        if split not in found:
            raise DataError(f"{name}: no split {split!r}; it has {', '.join(map(repr, found))}. Set {split_setting}")
        found = found[split]
    rows: Iterable[object] = found
    return rows


def is_text(value: object, name: str) -> TypeGuard[str]:
    """Whether the value of field ``name`` is text. Raises ``BadRowError`` for text that is broken."""
    if not isinstance(value, str) or isinstance(value, _LongInteger):
        return False
    if broken := lone_surrogate(value):
        raise BadRowError(f"field '{name}': {broken}")
    return True


def required(row: Mapping[str, object], name: str) -> object:
    """The value of field ``name``. Raises ``BadRowError`` where the row has none."""
    if name not in row:
        raise BadRowError(f"field '{name}': missing; the row has {', '.join(map(repr, row)) or 'no fields'}")
    return row[name]


def row_id(row: Mapping[str, object], name: str, default: str) -> str:
    """The row's own id, or the one it has by its place. Raises ``BadRowError`` for an id of another type."""
    given = row.get(name)
    if given is not None and (isinstance(given, bool) or not (isinstance(given, int) or is_text(given, name))):
        raise BadRowError(f"field '{name}': {described(given)}, wanted text or a whole number")
    return default if given is None else str(given)


def described(value: object) -> str:
    """What kind of value a bad row holds, for its message."""
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
