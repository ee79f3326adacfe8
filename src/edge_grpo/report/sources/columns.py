"""Formats of one row a completion, whose columns are known, guessed or named by the user."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.report.sources.records import Completion, Found, Ledger, Rollouts
from edge_grpo.report.sources.rows import Advance, json_rows, message_text, number, parquet_rows, schema_names

__all__ = ["ROLES", "Asked", "Layout", "guessed", "read_columns", "step_in"]

ROLES: Final = ("reward", "group", "prompt", "step", "correct", "tokens", "completion")
"""What a column can serve as; each is the name of an option, too."""

_USUAL: Final[Mapping[str, Sequence[str]]] = {
    "reward": ("reward", "score", "total_reward", "rewards", "scores"),
    "group": ("group", "group_id", "group_index", "uid", "prompt_id", "problem_id", "example_id", "question_id"),
    "prompt": ("prompt", "input", "question", "problem", "query", "messages"),
    "step": ("step", "global_step", "training_step", "iteration"),
    "correct": ("correct", "is_correct", "acc", "accuracy", "accuracy_reward", "passed", "solved"),
    "tokens": (
        *("tokens", "num_tokens", "completion_tokens", "completion_length", "response_length", "output_tokens"),
        *("completion_ids", "response_tokens"),
    ),
    "completion": ("completion", "response", "output"),
}


@dataclass(frozen=True)
class Asked:
    """What the user said of the columns: names by role (``reward`` may have several), and how many make a group."""

    columns: Mapping[str, Sequence[str]]
    group_size: int = 0

    def option(self) -> str:
        """The first option that was given; empty if there is none."""
        return next(
            (f"--{role}" for role in ROLES if self.columns.get(role)), "--group-size" if self.group_size else ""
        )


@dataclass(frozen=True)
class Layout:
    """Which columns serve as what.

    ``consecutive``: without a column of groups, those are runs of rows with one prompt, as the trainer wrote them, and
    not all rows of a step with one prompt. ``repeats``: a file with the very prompts and completions of the file before
    is the same step, written again.
    """

    name: str
    rewards: Sequence[str]
    roles: Mapping[str, str]
    found: Sequence[Found]
    consecutive: bool = False
    repeats: bool = False
    advantage: str = ""

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        own = [*self.rewards, *self.roles.values(), *([self.advantage] if self.advantage else [])]
        return list(dict.fromkeys(own))


def guessed(
    names: Sequence[str],
    first: Mapping[str, Any],
    asked: Asked,
    where: Path,
    known: Mapping[str, Sequence[str]] | None = None,
) -> Layout:
    """The layout of a file: columns named by the user, then those that its format is known for, then usual names.

    Args:
        names: the file's columns.
        first: a value of each, from its first rows.
        asked: what the user named.
        where: the file, for messages.
        known: by role, the columns of a recognized format.
    Raises:
        ConfigError: a column that the user named does not exist.
        DataError: no reward, or neither a group nor a prompt, can be told.
    """
    chosen: dict[str, list[str]] = {}
    found: list[Found] = []
    for role in ROLES:
        columns, how = list(asked.columns.get(role) or ()), "given"
        if missing := [column for column in columns if column not in names]:
            raise ConfigError(f"--{role}: {where} has no column '{missing[0]}'; it has {', '.join(names)}")
        if not columns and known and role in known:
            columns, how = [column for column in known[role] if column in names], "the format's"
        if not columns and not (known and role in known):
            columns, how = _usual(role, names, first), "guessed"
        if columns:
            chosen[role] = columns
            found += [Found(role, column, how) for column in columns]
    if "reward" not in chosen:
        raise DataError(f"{where}: no column of rewards among {', '.join(names)}; name it: --reward COLUMN")
    if "group" not in chosen and "prompt" not in chosen:
        raise DataError(
            f"{where}: neither a column of groups nor one of prompts among {', '.join(names)}; name one: "
            "--group COLUMN or --prompt COLUMN"
        )
    roles = {role: columns[0] for role, columns in chosen.items() if role != "reward"}
    return Layout("rows", chosen["reward"], roles, found)


def _usual(role: str, names: Sequence[str], first: Mapping[str, Any]) -> list[str]:
    """Columns with the usual names of a role: one, but several rewards if they are called so."""
    usual = [name for name in _USUAL[role] if name in names]
    if role == "reward" and not usual:
        return [name for name in names if "reward" in name.lower() and number(first.get(name)) is not None]
    if role == "tokens":
        usual = [name for name in usual if number(first.get(name)) is not None or isinstance(first.get(name), list)]
    if role == "correct":
        usual = [name for name in usual if number(first.get(name)) in (0.0, 1.0)]
    return usual[:1]


def read_columns(files: Sequence[Path], layout: Layout, asked: Asked, advance: Advance) -> Rollouts:
    """The completions of files of one layout.

    Raises:
        DataError: a file cannot be read, or lacks a column that the first one has.
    """
    ledger = Ledger()
    reader = _Reader(layout, asked, ledger)
    for file in files:
        reader.file(file, _values(file, layout, ledger, advance))
    completions = reader.finished()
    notes = ledger.sentences()
    if len(layout.rewards) > 1:
        notes.append(f"the reward is the sum of {len(layout.rewards)} columns, unweighted; --reward names others")
    return Rollouts(layout.name, len(files), layout.found, notes, completions)


def _values(file: Path, layout: Layout, ledger: Ledger, advance: Advance) -> Iterator[tuple[Any, ...]]:
    columns = layout.columns
    if file.suffix == ".parquet":
        if missing := set(layout.columns) - set(schema_names(file)):
            raise DataError(f"{file}: no column '{min(missing)}', which other files have; name one of the files alone")
        yield from parquet_rows(file, columns, advance)
        return
    for row in json_rows(file, ledger, advance):
        yield tuple(map(row.get, columns))


class _Reader:
    """Turns rows into completions and numbers their groups."""

    def __init__(self, layout: Layout, asked: Asked, ledger: Ledger) -> None:
        self._layout, self._asked, self._ledger = layout, asked, ledger
        self._completions: list[Completion] = []
        self._prompts: dict[str, str] = {}  # one object per text
        self._groups: dict[Any, int] = {}
        self._members: Counter[Any] = Counter()
        self._before: list[tuple[Any, ...]] = []
        place = {column: index for index, column in enumerate(layout.columns)}
        self._rewards = [place[column] for column in layout.rewards]
        self._place = {role: place[column] for role, column in layout.roles.items()}
        self._advantage = place[layout.advantage] if layout.advantage else None
        self._step_of: Callable[[Path], int | None] = step_in if "step" not in layout.roles else lambda _: None

    def file(self, path: Path, rows: Iterable[tuple[Any, ...]]) -> None:
        """Read the rows of one file."""
        if self._layout.repeats:
            kept = list(rows)
            content = [(row[self._place["prompt"]], row[self._place["completion"]]) for row in kept]
            if content and content == self._before:
                self._ledger.counts["files left out because they repeat the rows of the file before"] += 1
                return
            self._before, rows = content, kept
        named, last, run = self._step_of(path), None, 0
        for row in rows:
            if row[self._place["group" if "group" in self._place else "prompt"]] is None:
                self._ledger.counts["rows without a group or prompt left out"] += 1
                continue
            one = self._completion(row, named)
            if "group" in self._place:
                key: Any = (one.step, _key(row[self._place["group"]]))
            elif self._layout.consecutive:
                run += one.prompt is not last
                last, key = one.prompt, (path, run)
            else:
                key = (one.step, one.prompt)
            if self._asked.group_size:
                self._members[key] += 1
                key = (key, (self._members[key] - 1) // self._asked.group_size)
            self._completions.append(one._replace(group=self._groups.setdefault(key, len(self._groups))))

    def _completion(self, row: tuple[Any, ...], named: int | None) -> Completion:
        place, ledger = self._place, self._ledger
        parts = [row[index] for index in self._rewards]
        numbers = [part for part in map(number, parts) if part is not None]
        if not numbers:
            self._unscored(parts)
        step = number(row[place["step"]]) if "step" in place else named
        prompt = message_text(row[place["prompt" if "prompt" in place else "group"]])
        completion = message_text(row[place["completion"]]) if "completion" in place else None
        right = number(row[place["correct"]]) if "correct" in place else None
        if right not in (None, 0.0, 1.0):
            ledger.counts[f"rows whose '{self._layout.roles['correct']}' is neither 0 nor 1, taken as unknown"] += 1
            right = None
        advantage = None if self._advantage is None else number(row[self._advantage])
        return Completion(
            None if step is None else int(step),
            -1,
            self._prompts.setdefault(prompt, prompt),
            sum(numbers) if numbers else None,
            None if right is None else bool(right),
            _count(row[place["tokens"]]) if "tokens" in place else None,
            None if completion is None else len(completion),
            None if completion is None else hash(completion),
            advantage,
        )

    def _unscored(self, parts: Sequence[Any]) -> None:
        """Count a row without a reward, apart from one with something else in its place."""
        odd = [part for part in parts if part is not None and not isinstance(part, float)]
        what = f"rows whose reward is no number (such as {odd[0]!r:.60})" if odd else "rows without a reward"
        known = next((told for told in self._ledger.counts if told.startswith("rows whose reward")), "") if odd else ""
        self._ledger.counts[known or what] += 1

    def finished(self) -> list[Completion]:
        """All completions, with runs of one prompt cut into groups of the size that divides them all."""
        if not self._layout.consecutive or self._asked.group_size or "group" in self._place:
            return self._completions
        lengths = Counter(one.group for one in self._completions)
        size = gcd(*lengths.values()) if lengths else 0
        if size < 2 or size == max(lengths.values()):
            if size == 1 and max(lengths.values()) > 1:
                self._ledger.notes.append(
                    "runs of one prompt have no common size: each is taken as one group; --group-size N cuts them"
                )
            return self._completions
        seen: Counter[int] = Counter()
        numbers: dict[tuple[int, int], int] = {}
        cut = []
        for one in self._completions:
            key = one.group, seen[one.group] // size
            seen[one.group] += 1
            cut.append(one._replace(group=numbers.setdefault(key, len(numbers))))
        self._ledger.notes.append(
            f"groups of {size}: the size that divides all runs of one prompt; --group-size N if it is another"
        )
        return cut


def _key(value: Any) -> Any:
    return value if isinstance(value, str | int) else message_text(value)


def _count(value: Any) -> int | None:
    """A number of tokens, or the length of a list of them."""
    if isinstance(value, list):
        return len(value)
    found = number(value)
    return None if found is None or found < 0 else int(found)


def step_in(path: Path) -> int | None:
    """The step in the name of a file such as ``12.jsonl`` or ``step_000012.parquet``, or of a folder around it.

    Example:
        >>> step_in(Path("step_7/train/all/traces.jsonl")), step_in(Path("12.jsonl")), step_in(Path("a1.jsonl"))
        (7, 12, None)
    """
    found = re.search(r"(?:^|[._-])(?:step|iter|iteration)[._-]?(\d{1,9})$|^(\d{1,9})$", path.stem)
    inside = (re.fullmatch(r"(?:global_)?(?:step|iter|iteration)[_-]?(\d{1,9})", part.name) for part in path.parents)
    match = found or next(filter(None, inside), None)
    return int(next(filter(None, match.groups()))) if match else None
