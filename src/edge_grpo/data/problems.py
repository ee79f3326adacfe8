"""Problems from JSON, JSONL and parquet files, saved or hub datasets, and the built-in task."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.base.rng import python_random
from edge_grpo.data import arithmetic, digits
from edge_grpo.data.pictures import ImageSettings
from edge_grpo.data.readers import check_subset, joined, load_records, optional
from edge_grpo.data.rows import read_problem
from edge_grpo.data.settings import DataSettings, FieldNames, Paths, sources
from edge_grpo.rewards.references import Found

__all__ = [
    "Loaded",
    "folder_of",
    "load_as_configured",
    "load_eval",
    "load_problems",
    "load_train_eval",
    "split",
    "told",
]


@dataclass(frozen=True)
class Loaded:
    """Problems, how many bad rows were skipped, and how the answers were read."""

    problems: tuple[Problem, ...]
    num_skipped: int = 0
    read: Mapping[Found, int] = field(default_factory=dict)


def load_train_eval(data: DataSettings, *, num_eval: int, seed: int) -> tuple[Loaded, Loaded]:
    """Load the problems to train on and those to evaluate on, disjoint unless both paths are given.

    Data too small for ``num_eval`` held-out problems gives a fifth of them, at least one.

    Args:
        data: where they come from.
        num_eval: evaluate on at most this many.
        seed: for choosing the evaluation problems.

    Raises:
        DataError: a file, row or field is missing or unusable.
        ConfigError: the built-in task cannot generate that many problems.
    """
    if not data.path:
        size = data.digits.size if data.task == "digits" else data.arithmetic.size
        return Loaded(_built_in(data, size)), load_eval(data, num_eval=num_eval, seed=seed)
    train = load_as_configured(data.path, data)
    if data.eval_path:
        return train, load_eval(data, num_eval=num_eval, seed=seed)
    distinct = len({problem.question for problem in train.problems})
    count = num_eval if num_eval < distinct or distinct < 2 else max(1, distinct // 5)
    kept, evaluated = split(train.problems, count, seed)
    return replace(train, problems=kept), Loaded(evaluated)


def load_eval(data: DataSettings, *, num_eval: int, seed: int) -> Loaded:
    """Load at most ``num_eval`` problems of ``eval_path``, or held-out ones of the built-in task.

    Raises:
        DataError: a file, row or field is missing or unusable.
    """
    if not data.eval_path:
        return Loaded(_built_in(data, num_eval, on_held_out=True))
    loaded = load_as_configured(data.eval_path, data, held_out=True)
    if num_eval >= len(loaded.problems):
        return loaded
    return replace(loaded, problems=split(loaded.problems, num_eval, seed)[1])


def _built_in(data: DataSettings, count: int, *, on_held_out: bool = False) -> tuple[Problem, ...]:
    """Problems of the built-in task."""
    if data.task == "digits":
        return tuple(digits.problems(data.digits, count=count, on_held_out=on_held_out))
    return tuple(arithmetic.problems(data.arithmetic, count=count, on_held_out=on_held_out))


def split(problems: Iterable[Problem], num_eval: int, seed: int) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Hold out ``num_eval`` problems at random; both parts keep their order.

    Problems with the same question (images, and turns before it) stay together, so the held-out part may be slightly
    smaller.

    Raises:
        DataError: nothing would be left to train on, or to evaluate on.
    """
    listed = tuple(problems)
    prompts = sorted({problem.question for problem in listed})
    if num_eval >= len(prompts):
        raise DataError(
            f"{len(prompts)} distinct problems cannot provide {num_eval} held-out ones and leave any to train on; "
            "set data.eval_path, or evaluate on fewer (eval.size)"
        )
    python_random("split", seed).shuffle(prompts)
    counts = Counter(problem.question for problem in listed)
    chosen: set[tuple[str, tuple[str, ...]]] = set()
    room = num_eval
    for prompt in prompts:
        if counts[prompt] <= room:
            chosen.add(prompt)
            room -= counts[prompt]
    if num_eval and not chosen:
        raise DataError(
            f"every problem occurs more than {num_eval} times, so {num_eval} cannot be held out from training; "
            "set data.eval_path, or evaluate on more (eval.size)"
        )
    return (
        tuple(problem for problem in listed if problem.question not in chosen),
        tuple(problem for problem in listed if problem.question in chosen),
    )


def load_as_configured(path: Paths, data: DataSettings, *, held_out: bool = False) -> Loaded:
    """The problems of a path, read by the columns, pattern and rules of ``data``, and its subset and split.

    Args:
        path: what ``data.path`` may be.
        data: how to read.
        held_out: read the subset and split of ``data.eval_path``, not those of ``data.path``.
    Raises:
        DataError: as :func:`load_problems`.
    """
    return load_problems(
        path,
        data.fields,
        subset=data.eval_subset if held_out else data.subset,
        split=data.eval_split if held_out else data.split,
        bad_rows=data.bad_rows,
        answer_pattern=data.answer_pattern,
        images=data.images,
        prefix="data.eval_" if held_out else "data.",
    )


def load_problems(
    path: Paths,
    fields: FieldNames | None = None,
    *,
    subset: str = "",
    split: str = "train",
    bad_rows: Literal["error", "skip"] = "error",
    answer_pattern: str = "",
    images: ImageSettings = ImageSettings(),  # noqa: B008 - frozen
    prefix: str = "data.",
) -> Loaded:
    """Load the problems of a file, a saved dataset or a hub dataset, or of several, one after another.

    Args:
        path: what ``data.path`` may be.
        fields: which column holds what.
        subset: which subset of a hub dataset to read.
        split: which split of a dataset to read; files have none.
        bad_rows: ``skip`` drops unusable rows and counts them.
        answer_pattern: finds the answer in its column, see `read_problem`.
        images: limits and scale of images; their paths are relative to the folder of the file.
        prefix: what the settings that choose subset and split begin with, for messages.

    Returns:
        the problems in file order, with their source's weight. If two sources use the same id, ``17`` of the second one
        becomes ``17#2``. Rows without an id are named after the file and row number (line number in a JSONL file),
        counted from 1.

    Raises:
        DataError: the path is missing or unreadable, has no usable row, or, unless ``bad_rows`` is ``skip``, has an
            unusable row.
    """
    names, weights = fields or FieldNames(), sources(path)
    check_subset(tuple(weights), subset, f"{prefix}subset")
    unseen = _chosen_and_optional(names)

    read: Counter[Found] = Counter()

    def record(row: Mapping[str, object], name: str, folder: Path) -> Problem:
        for setting in [each for each in unseen if optional(row, unseen[each]) is not None]:
            del unseen[setting]
        problem, found = read_problem(row, names, name, answer_pattern=answer_pattern, images=images, folder=folder)
        read[found] += 1
        return problem

    loaded = [
        load_records(
            each,
            partial(record, folder=folder_of(each)),
            split=split,
            split_setting=f"{prefix}split",
            subset=subset,
            subset_setting=f"{prefix}subset",
            fields_setting="data.fields",
            id_field=names.id,
            noun="problems",
            bad_rows=bad_rows,
        )
        for each in weights
    ]
    for setting, column in unseen.items():
        raise DataError(f"data.fields.{setting}: no row of {', '.join(weights)} has a field {column!r}")
    parts = [
        kept if weight == 1 else tuple(replace(one, weight=weight) for one in kept)
        for (kept, _), weight in zip(loaded, weights.values(), strict=True)
    ]
    return Loaded(joined(parts), sum(skipped for _, skipped in loaded), read)


def _chosen_and_optional(names: FieldNames) -> dict[str, str]:
    """The optional columns that the user has named, by setting: a typo there would otherwise go unnoticed."""
    usual = FieldNames()
    return {
        setting: getattr(names, setting)
        for setting in ("solution", "variants", "images", "id")
        if getattr(names, setting) != getattr(usual, setting)
    }


def folder_of(path: str) -> Path:
    """What the paths of images in a source are relative to: its folder; for a hub dataset, the current one."""
    place = os.path.expanduser(path)  # which, unlike pathlib, leaves it to the reader to fail
    return Path(place) if os.path.isdir(place) else Path(place).parent if os.path.isfile(place) else Path()


def told(read: Mapping[Found, int], *, solutions: bool = False) -> str:
    """One line about answers that were read out of longer text; empty if none were."""
    ways = {
        Found.MARKED: "after the last '####'",
        Found.BOXED: "from the last box",
        Found.MATCHED: "with data.answer_pattern",
    }
    found = ", ".join(f"{read[way]:,} answers read {words}" for way, words in ways.items() if read.get(way))
    rest = "; a row without a solution gets the worked text around its answer" if solutions else ""
    return found and f"{found}{rest}"
