"""Problems from JSON, JSONL and parquet files, saved or hub datasets, and the built-in task."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from pydantic import Field

from edge_grpo.data import arithmetic
from edge_grpo.data.arithmetic import ArithmeticSettings
from edge_grpo.errors import DataError
from edge_grpo.quiet import quiet_failures
from edge_grpo.records import Problem
from edge_grpo.rng import python_random
from edge_grpo.settings import settings

__all__ = ["DataSettings", "FieldNames", "Loaded", "load_eval", "load_problems", "load_train_eval", "split"]

_FILES = (".json", ".jsonl", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@settings
class FieldNames:
    """Which column of a data row holds what. Columns not named here end up in ``Problem.meta``."""

    prompt: str = "problem"
    answer: str = "answer"
    solution: str = "solution"
    id: str = "id"


@settings
class DataSettings:
    r"""Problems for training and evaluation, and how a problem becomes a prompt.

    ``path``: a ``.json``, ``.jsonl`` or ``.parquet`` file, a folder written by ``Dataset.save_to_disk``, or the name of
    a hub dataset; empty = the built-in ``task``. ``eval_path`` likewise; empty = held-out problems of the task, or rows
    split off ``path``. ``system_prompt``: empty = none, or the template's own for ``qwen-math``. ``over_long`` says
    what happens to a prompt of more than ``max_prompt_tokens`` tokens; ``truncate`` keeps its last tokens.
    """

    task: Literal["arithmetic"] = "arithmetic"
    arithmetic: ArithmeticSettings = Field(default_factory=ArithmeticSettings)
    path: str = ""
    split: str = "train"
    eval_path: str = ""
    eval_split: str = "test"
    fields: FieldNames = Field(default_factory=FieldNames)
    bad_rows: Literal["error", "skip"] = "error"
    template: Literal["chat", "qwen-math", "plain"] = "chat"
    system_prompt: str = ""
    max_prompt_tokens: int = Field(default=512, ge=1)
    over_long: Literal["error", "skip", "truncate"] = "error"

    def __post_init__(self) -> None:
        """Reject a system prompt that no tokenizer takes."""
        if broken := _half_character(self.system_prompt):
            raise ValueError(f"system_prompt: {broken}")


@dataclass(frozen=True)
class Loaded:
    """Problems, and how many bad rows were left out."""

    problems: tuple[Problem, ...]
    num_skipped: int = 0


class _BadRowError(Exception):
    """What is wrong with one row; the reader adds where it stands."""


def load_train_eval(data: DataSettings, *, num_eval: int, seed: int) -> tuple[Loaded, Loaded]:
    """The problems to train on and those to evaluate on; the two are disjoint unless both paths are given.

    Args:
        data: where they come from.
        num_eval: evaluate on at most this many.
        seed: of the draw of evaluation problems.

    Raises:
        DataError: a file, row or field is missing or unusable.
        ConfigError: the built-in task cannot make that many problems.
    """
    if not data.path:
        train = Loaded(tuple(arithmetic.problems(data.arithmetic, count=data.arithmetic.size)))
        return train, load_eval(data, num_eval=num_eval, seed=seed)
    train = load_problems(data.path, data.fields, split=data.split, bad_rows=data.bad_rows)
    if data.eval_path:
        return train, load_eval(data, num_eval=num_eval, seed=seed)
    kept, evaluated = split(train.problems, num_eval, seed)
    return Loaded(kept, train.num_skipped), Loaded(evaluated)


def load_eval(data: DataSettings, *, num_eval: int, seed: int) -> Loaded:
    """At most ``num_eval`` problems of ``eval_path``, or held-out ones of the built-in task.

    Raises:
        DataError: a file, row or field is missing or unusable.
    """
    if not data.eval_path:
        return Loaded(tuple(arithmetic.problems(data.arithmetic, count=num_eval, on_held_out=True)))
    loaded = load_problems(data.eval_path, data.fields, split=data.eval_split, bad_rows=data.bad_rows)
    if num_eval >= len(loaded.problems):
        return loaded
    return Loaded(split(loaded.problems, num_eval, seed)[1], loaded.num_skipped)


def split(problems: Iterable[Problem], num_eval: int, seed: int) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Hold out ``num_eval`` problems at random; both parts keep their order.

    Problems with the same prompt fall on the same side, so the held-out part may be a little smaller.

    Raises:
        DataError: nothing would be left to train on, or to evaluate on.
    """
    listed = tuple(problems)
    prompts = sorted({problem.prompt for problem in listed})
    if num_eval >= len(prompts):
        raise DataError(
            f"{len(prompts)} different problems cannot give {num_eval} held-out ones and leave any to train on; "
            "set data.eval_path, or evaluate on fewer (eval.size)"
        )
    python_random("split", seed).shuffle(prompts)
    times = dict.fromkeys(prompts, 0)
    for problem in listed:
        times[problem.prompt] += 1
    chosen: set[str] = set()
    room = num_eval
    for prompt in prompts:
        if times[prompt] <= room:
            chosen.add(prompt)
            room -= times[prompt]
    if num_eval and not chosen:
        raise DataError(
            f"every problem occurs more than {num_eval} times, so {num_eval} cannot be held out without being trained "
            "on; set data.eval_path, or evaluate on more (eval.size)"
        )
    return (
        tuple(problem for problem in listed if problem.prompt not in chosen),
        tuple(problem for problem in listed if problem.prompt in chosen),
    )


def load_problems(
    path: str,
    fields: FieldNames | None = None,
    *,
    split: str = "train",
    bad_rows: Literal["error", "skip"] = "error",
) -> Loaded:
    """The problems of a file, a saved dataset or a hub dataset.

    Args:
        path: a ``.json`` (list of objects), ``.jsonl`` or ``.parquet`` file, a ``save_to_disk`` folder, or a hub name.
        fields: which column holds what.
        split: of a dataset that has several; files have none.
        bad_rows: ``skip`` leaves unusable rows out and counts them.

    Returns:
        the problems in file order. Answers are text: ``142.0`` becomes ``"142"``, a list keeps all its answers. Rows
        without an id are named after the file and their number (the line of a JSONL file, counted from 1).

    Raises:
        DataError: nothing there, not readable, no usable row, or, unless ``bad_rows`` is ``skip``, an unusable row.
    """
    names = fields or FieldNames()
    kept: list[Problem] = []
    seen: dict[str, int] = {}
    first_error = ""
    skipped = 0
    for number, row in _rows(path, split):
        try:
            problem = _problem(row, names, f"{Path(path).stem}:{number}")
            if problem.id in seen:
                raise _BadRowError(f"field '{names.id}': {problem.id!r} is also the id of row {seen[problem.id]}")
        except _BadRowError as error:
            message = f"{path}, row {number}, {error}"
            if bad_rows == "error":
                raise DataError(
                    f"{message}. Mend the row, name its columns (data.fields.*), or set data.bad_rows=skip"
                ) from None
            first_error = first_error or message
            skipped += 1
            continue
        seen[problem.id] = number
        kept.append(problem)
    if not kept:
        reason = f"all {skipped} rows are bad; the first: {first_error}" if skipped else "it has no rows"
        raise DataError(f"{path}: no problems to read: {reason}")
    return Loaded(tuple(kept), skipped)


def _rows(path: str, split: str) -> Iterator[tuple[int, object]]:
    try:
        file = Path(path).expanduser()
        is_file, is_folder = file.is_file(), file.is_dir()
    except (OSError, RuntimeError) as error:  # a folder that may not be entered, a user that does not exist
        raise DataError(f"{path}: cannot be looked for: {error}") from None
    suffix = file.suffix.lower()
    if suffix in _FILES:
        if not is_file:
            raise DataError(f"{path}: no such file")
        readers = {".json": _json_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
        return readers[suffix](file, path)
    if is_file:
        raise DataError(f"{path}: unknown kind of file; wanted one of {', '.join(_FILES)}")
    if is_folder:
        return enumerate(_dataset(str(file), split, saved=True), 1)
    if _HUB_NAME.fullmatch(path):
        return enumerate(_dataset(path, split, saved=False), 1)
    raise DataError(f"{path}: no such file or folder, nor the name of a hub dataset")


def _text(file: Path, path: str) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


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
        rows = _parse(_text(file, path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: lists or objects are nested too deeply to be read") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds {_kind(rows)}, wanted a list of objects")
    return enumerate(rows, 1)


def _jsonl_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_text(file, path).split("\n"), 1):
        if line.strip():
            try:
                row = _parse(line)
            except json.JSONDecodeError as error:
                row = _BadRowError(f"column {error.colno}: not JSON: {error.msg}")
            except RecursionError:
                row = _BadRowError("column 1: lists or objects are nested too deeply to be read")
            yield number, row


def _parquet_rows(file: Path, path: str) -> Iterator[tuple[int, object]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 (heavy, and needed for parquet files only)
    from pyarrow import ArrowException  # noqa: PLC0415

    try:
        rows = pq.read_table(file).to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: texts and dates in columns
        raise DataError(f"{path}: not a readable parquet file: {error}") from None
    return enumerate(rows, 1)


def _dataset(name: str, split: str, *, saved: bool) -> Iterable[object]:
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
        hint = "" if saved else " There is no such file or folder either; look at data.path"
        raise DataError(f"{name}: cannot be loaded as a {kind}: {lines[0].rstrip('.')}.{hint}") from None
    if isinstance(found, dict):
        if split not in found:
            raise DataError(f"{name}: no split {split!r}; it has {', '.join(map(repr, found))}. Set data.split")
        found = found[split]
    rows: Iterable[object] = found
    return rows


def _problem(row: object, names: FieldNames, default_id: str) -> Problem:
    if isinstance(row, _BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise _BadRowError(f"holds {_kind(row)}, wanted an object")
    prompt = _required(row, names.prompt)
    if not _is_text(prompt, names.prompt) or not prompt.strip():
        raise _BadRowError(f"field '{names.prompt}': {_kind(prompt)}, wanted text")
    worked = row.get(names.solution)
    if worked is not None and not _is_text(worked, names.solution):
        raise _BadRowError(f"field '{names.solution}': {_kind(worked)}, wanted text or nothing")
    name = row.get(names.id)
    if name is not None and (isinstance(name, bool) or not (isinstance(name, int) or _is_text(name, names.id))):
        raise _BadRowError(f"field '{names.id}': {_kind(name)}, wanted text or a whole number")
    used = {names.prompt, names.answer, names.solution, names.id}
    return Problem(
        id=default_id if name is None else str(name),
        prompt=prompt,
        answers=_answers(_required(row, names.answer), names.answer),
        solution=worked or "",
        meta={key: value for key, value in row.items() if key not in used},
    )


def _is_text(value: object, name: str) -> TypeGuard[str]:
    if not isinstance(value, str) or isinstance(value, _LongInteger):
        return False
    if broken := _half_character(value):
        raise _BadRowError(f"field '{name}': {broken}")
    return True


def _half_character(text: str) -> str:
    """What is wrong with a text that holds lone surrogates, which no tokenizer and no file takes; else nothing."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        return f"half a character ({half}) at position {error.start}, wanted whole Unicode text"
    return ""


def _required(row: Mapping[str, object], name: str) -> object:
    if name not in row:
        raise _BadRowError(f"field '{name}': missing; the row has {', '.join(map(repr, row)) or 'no fields'}")
    return row[name]


def _answers(value: object, name: str) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise _BadRowError(f"field '{name}': an empty list, wanted an answer")
    return tuple(_answer(each, name) for each in values)


def _answer(value: object, name: str) -> str:
    if _is_text(value, name) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise _BadRowError(f"field '{name}': {_kind(value)}, wanted text, a finite number or a list of them")


def _kind(value: object) -> str:
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
