"""The rollout files of a run: one schema for all its steps, and a reader that gives one table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import DataError

__all__ = ["DATA", "data_columns", "data_values", "rollouts", "schema_of", "table_of"]

DATA: Final = "data/"
"""What the names of the user's own columns start with; no other column's name has a slash."""

_FOLDER, _FILES = "rollouts", "step_*.parquet"
_KINDS: Final = {"text": "string", "flag": "bool_", "whole": "int64", "number": "float64", "json": "string"}


def data_columns(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The columns of the user's data and the kind of each: text, flag, whole, number, or json.

    A column is ``json`` (text that holds JSON) if its values are neither all text, nor all true or false, nor all
    numbers; whole numbers beyond 64 bits are too. Missing and null values do not count.

    Example:
        >>> data_columns([{"level": 3, "tags": ["a"]}, {"level": 1.5, "by": "me"}])
        {'level': 'number', 'tags': 'json', 'by': 'text'}
    """
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).update(() if value is None else (_kind(value),))
    return {name: _common(found) for name, found in kinds.items()}


def data_values(row: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, Any]:
    """The user's columns of one row, named with :data:`DATA`; None where the row has none."""
    found: dict[str, Any] = {}
    for name, kind in columns.items():
        value = row.get(name)
        found[DATA + name] = _as_json(value) if kind == "json" and value is not None else value
    return found


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_described)
    except (TypeError, ValueError, RecursionError) as error:  # odd keys, or nested too deeply
        return json.dumps(f"not JSON: {error}")


def _described(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _storable(value: object) -> object:
    """Text that every file can hold: half a surrogate pair becomes its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int):
        return "whole" if -(2**63) <= value < 2**63 else "json"
    return "number" if isinstance(value, float) else "json"


def _common(kinds: set[str]) -> str:
    """The kind that holds all of these; text if there is no value at all."""
    if kinds == {"whole", "number"}:
        return "number"
    return next(iter(kinds or {"text"})) if len(kinds) < 2 else "json"


def schema_of(columns: Mapping[str, str] | None = None) -> Any:
    """The pyarrow schema of a rollout file, with the user's own columns."""
    import pyarrow as pa  # noqa: PLC0415 - slow imports, needed here only

    texts, numbers = pa.string(), pa.float64()
    values = pa.list_(pa.float32())
    span = pa.struct(
        {
            "origin": texts,
            "token_ids": pa.list_(pa.int64()),
            "logprobs": values,
            "entropies": values,
            "version": pa.int64(),
        }
    )
    part = pa.struct({"name": texts, "value": numbers})
    kinds: dict[str, Any] = {
        **dict.fromkeys(("step",), pa.int64()),
        **dict.fromkeys(("problem", "prompt"), texts),
        **dict.fromkeys(("group", "sampled_group", "family", "variant", "source", "layer", "parent"), pa.int64()),
        **dict.fromkeys(("answer", "completion", "completion_before", "strategy"), texts),
        **dict.fromkeys(("verdict", "verdict_before", "note"), texts),
        **dict.fromkeys(("reward", "reward_before"), numbers),
        "reward_parts": pa.list_(part),
        "images": pa.list_(pa.struct({"name": texts, "digest": texts, "transform": texts, "seed": pa.int64()})),
        "finished": pa.bool_(),
        **dict.fromkeys(("entropy", "advantage_before_shaping", "advantage"), numbers),
        "trained": pa.bool_(),
        "dropped": texts,
        "prompt_ids": pa.list_(pa.int64()),
        "spans": pa.list_(span),
        **{DATA + name: getattr(pa, _KINDS[kind])() for name, kind in (columns or {}).items()},
    }
    return pa.schema(kinds)


def table_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> Any:
    """Rows as a pyarrow table with the schema of :func:`schema_of`; a column that a row lacks is null."""
    import pyarrow as pa  # noqa: PLC0415

    plain = [{name: _storable(value) for name, value in row.items()} for row in rows]
    return pa.Table.from_pylist(plain, schema=schema_of(columns))


def rollouts(run: str | Path, steps: Iterable[int] | None = None, columns: Sequence[str] | None = None) -> Any:
    """All completions of a run as one pyarrow table; ``.to_pandas()`` and ``.to_pylist()`` convert it.

    A run may be read while it trains: a step's file appears as a whole once the step is done.

    Args:
        run: the run folder.
        steps: the steps to read, ``range(1, 11)`` for example; None = all. Steps without a file are left out.
        columns: the columns to read; None = all. One that no file has is left out.
    Returns:
        One row per completion, in order of steps; docs/rollouts.md describes the columns.
    Raises:
        DataError: there is no run, it keeps no rollouts, or a file cannot be read.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    root = Path(run).expanduser()
    if not (root / "config.yaml").is_file():
        raise DataError(f"{root}: no run (no config.yaml); name a run folder")
    wanted = None if steps is None else frozenset(steps)
    schema = schema_of()
    tables = [(schema if columns is None else pa.schema([one for one in schema if one.name in columns])).empty_table()]
    for file in sorted((root / _FOLDER).glob(_FILES)):
        if wanted is None or int(file.stem.removeprefix("step_")) in wanted:
            try:
                with pq.ParquetFile(file) as opened:
                    tables.append(opened.read(columns))
            except FileNotFoundError:  # a resumed run has just cut it back
                continue
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: cannot be read as parquet: {error}") from None
    return pa.concat_tables(tables, promote_options="permissive")
