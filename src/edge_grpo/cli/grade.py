"""``edge-grpo grade``: grade the completions of a file as training does."""

import json
import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Grade, Problem, Verdict
from edge_grpo.cli.progress import ProgressBar, target, waiting
from edge_grpo.data.messages import read_prompt
from edge_grpo.data.problems import told
from edge_grpo.data.readers import BadRowError, described, optional, required
from edge_grpo.rewards.references import Found, Reference, is_worked, read_reference

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config
    from edge_grpo.rewards.builtin import Rewards

__all__ = ["grade"]

CHUNK_ROWS = 256  # per call of a custom reward function
CHUNK_CHARACTERS = 20_000_000  # fewer rows if they are long, to bound memory


@dataclass(frozen=True)
class _Fields:
    """Which columns are read, and how; with a custom reward function, ``gold`` is optional and may be anything.

    ``prefix`` goes before each text.
    """

    text: str
    gold: str
    prompt: str
    custom: bool
    pattern: str
    prefix: str


@dataclass(frozen=True)
class _Row:
    """A row to grade, or why it is bad (where bad rows are skipped)."""

    problem: Problem
    text: str
    finished: bool
    found: Found = Found.ALONE
    bad: str = ""


@dataclass
class _Tally:
    """Running counts."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    rewards: float = 0.0
    scored: int = 0
    trouble: str = ""  # why the first row that failed could not be graded

    def add(self, grade: Grade) -> None:
        self.verdicts[grade.verdict] += 1
        self.seconds.append(grade.seconds)
        if grade.scorable:
            self.rewards += grade.reward
            self.scored += 1
        else:
            self.trouble = self.trouble or grade.note


def grade(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="One completion and its reference answer per row.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", help="Settings, as for training: reward.timeout_s=2."),
    ] = None,
    text_field: Annotated[str, typer.Option(metavar="NAME", help="The column of completions.")] = "text",
    gold_field: Annotated[
        str, typer.Option(metavar="NAME", help="The column of reference answers: text, a number, or a list of them.")
    ] = "gold",
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="What the prompts opened for every completion, such as '<think>'.")
    ] = "",
    out: Annotated[str, typer.Option(metavar="FILE.jsonl", help="Write one verdict per row here, in order.")] = "",
) -> None:
    """Grade the completions of a JSONL file as training does, and count the verdicts.

    All rows are validated before the first is graded; with data.bad_rows=skip, bad rows get the verdict "error".
    """
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch
    from edge_grpo.rewards.builtin import Rewards  # noqa: PLC0415

    source = _existing(file)
    path = target(out, source=source)
    config = load_config(*split_words(settings))
    data = config.data
    custom = bool(config.reward.function)
    fields = _Fields(text_field, gold_field, data.fields.prompt, custom, data.answer_pattern, prefix)
    with waiting(f"checking the rows of {file}"):
        read = Counter(row.found for row in _rows(source, fields, config))
    count = read.total()
    if not count:
        raise DataError(f"{source}: no rows to grade")
    tally, began = _Tally(), time.monotonic()
    with Rewards(config.reward) as rewards, _whole_file(path) as written, ProgressBar("rows") as progress:
        for chunk in _chunks(_rows(source, fields, config)):
            for row, one in zip(chunk, _grades(rewards, chunk), strict=True):
                tally.add(one)
                if written is not None:
                    written.write(json.dumps(_output_row(row, one, rewards)) + "\n")
            progress(len(tally.seconds), count)
        decided = dict(rewards.decided)
    console = Console()
    if line := told(read):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(_table(tally))
    mean = f"{tally.rewards / tally.scored:.4g}" if tally.scored else "none"
    how = ", ".join(f"{number} by {name.value}" for name, number in decided.items() if number)
    console.print(f"mean reward {mean}; answers compared: {how or 'none'}", highlight=False)
    if tally.trouble:
        failed = f"{tally.verdicts[Verdict.ERROR]} rows could not be graded; the first: {tally.trouble}"
        console.print(failed, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{count} rows in {time.monotonic() - began:.1f} s" + (f"; wrote {out}" if out else ""), markup=False)


def _existing(file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        came = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{file}: {came}; wanted a JSONL file of completions")
    return path


def _rows(source: Path, fields: _Fields, config: "Config") -> Iterator[_Row]:
    """The rows of a file, one line at a time; blank lines are skipped.

    Raises:
        DataError: a row is bad, unless ``data.bad_rows`` is ``skip``.
    """
    skip = config.data.bad_rows == "skip"
    try:
        with source.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield _row(_parsed(line, first=number == 1), fields, f"{source.stem}:{number}")
                except BadRowError as error:
                    if not skip:
                        raise DataError(
                            f"{source}, row {number}, {error}. "
                            + (error.remedy or "Fix the row, or set data.bad_rows=skip")
                        ) from None
                    yield _Row(Problem(f"{source.stem}:{number}", "", ()), "", finished=True, bad=str(error))
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None


def _parsed(line: bytes, *, first: bool) -> Mapping[str, object]:
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise BadRowError(f"byte {error.start + 1}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise BadRowError(f"column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise BadRowError("column 1: lists or objects are nested too deeply to be read") from None
    except ValueError:
        raise BadRowError("an integer with too many digits to read; write it as text") from None
    if not isinstance(row, dict):
        raise BadRowError(f"holds {described(row)}, wanted an object")
    return row


def _row(row: Mapping[str, object], fields: _Fields, name: str) -> _Row:
    text = _column(row, fields.text, "--text-field", ("completion", "response", "output", "text"))
    if not isinstance(text, str):
        raise BadRowError(f"field '{fields.text}': {described(text)}, wanted text")
    golds: list[Reference] = []
    if not (fields.custom and optional(row, fields.gold) is None):
        given = _column(row, fields.gold, "--gold-field", ("answer", "ground_truth", "target", "gold"))
        golds = [_gold(each, fields) for each in (given if isinstance(given, list) else [given])]
        if not golds:
            raise BadRowError(f"field '{fields.gold}': an empty list, wanted an answer")
    finished = row.get("finished", True)
    if not isinstance(finished, bool):
        raise BadRowError(f"field 'finished': {described(finished)}, wanted true or false")
    problem = Problem(
        name,
        "",
        tuple(each.answer for each in golds),
        meta={key: value for key, value in row.items() if key not in (fields.text, fields.gold, fields.prompt)},
        columns={key: value for key, value in row.items() if key not in (fields.text, fields.prompt)},
    )
    with suppress(BadRowError):  # only custom rewards use the prompt, which a file of completions may lack
        problem = replace(problem, **vars(read_prompt(optional(row, fields.prompt), fields.prompt)))
    return _Row(problem, fields.prefix + text, finished, golds[0].found if golds else Found.ALONE)


def _column(row: Mapping[str, object], name: str, option: str, usual: Sequence[str]) -> object:
    """The value of a required column; the error offers the option, and a column of a usual name if there is one.

    Raises:
        BadRowError: the row has no such column.
    """
    try:
        return required(row, name)
    except BadRowError as error:
        meant = next((other for other in usual if other in row), "")
        usually = f"Fix the row, name the column ({option}), or set data.bad_rows=skip"
        raise BadRowError(str(error), f"Add {option} {meant}" if meant else usually) from None


def _gold(value: object, fields: _Fields) -> Reference:
    """The answer in a reference; a worked solution without one is refused, because its last number is a guess."""
    text = _as_text(value, fields.gold)
    try:
        reference = read_reference(text, fields.pattern)
    except ValueError:
        raise BadRowError(f"field '{fields.gold}': data.answer_pattern matches nothing in {text[:80]!r}") from None
    if not fields.custom and is_worked(reference.answer):
        raise BadRowError(
            f"field '{fields.gold}': a worked solution or a sentence, {text[:80]!r}, wanted the answer alone, in a "
            "box, after '####', or where data.answer_pattern finds it"
        )
    return reference


def _as_text(value: object, name: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise BadRowError(f"field '{name}': {described(value)}, wanted text, a finite number or a list of them")


def _chunks(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.text)
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _grades(rewards: "Rewards", chunk: list[_Row]) -> list[Grade]:
    good = [row for row in chunk if not row.bad]
    found = iter(
        rewards.grade(
            [row.problem for row in good],
            [row.text for row in good],
            [row.finished for row in good],
            strict=False,
        )
    )
    return [Grade(Verdict.ERROR, 0.0, note=row.bad) if row.bad else next(found) for row in chunk]


def _output_row(row: _Row, one: Grade, rewards: "Rewards") -> dict[str, object]:
    """The object written for a row; unscorable rows have no reward."""
    output: dict[str, object] = {
        "verdict": one.verdict.value,
        "reward": one.reward if one.scorable else None,
        "formatted": not row.bad and rewards.formatted(row.text),
        "seconds": round(one.seconds, 6),
    }
    return output | ({"note": one.note} if one.note else {})


@contextmanager
def _whole_file(path: Path | None) -> Iterator[TextIO | None]:
    """A file that appears only once it is complete; None without a path."""
    if path is None:
        yield None
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)


def _table(tally: _Tally) -> Table:
    count, ordered = len(tally.seconds), sorted(tally.seconds)
    names = [verdict.value for verdict in Verdict]
    table = Table("rows", *names, "seconds\np50", "seconds\np99", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
        column.no_wrap = True
    percentiles = [f"{ordered[math.ceil(share * count) - 1]:.2g}" for share in (0.5, 0.99)]
    table.add_row(str(count), *(str(tally.verdicts[verdict]) for verdict in Verdict), *percentiles)
    table.add_row("", *(f"{tally.verdicts[verdict] / count:.1%}" for verdict in Verdict), "", "")
    return table
