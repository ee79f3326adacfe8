"""Problems from JSON, JSONL and parquet files, saved or hub datasets, and the built-in task."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.base.rng import python_random
from edge_grpo.data import arithmetic
from edge_grpo.data.messages import read_prompt
from edge_grpo.data.readers import (
    BadRowError,
    check_subset,
    described,
    is_text,
    joined,
    load_records,
    optional,
    required,
    row_id,
)
from edge_grpo.data.settings import DataSettings, FieldNames, Paths, sources
from edge_grpo.rewards.references import Found, Reference, boxed_solution, read_reference

__all__ = [
    "Loaded",
    "load_as_configured",
    "load_eval",
    "load_problems",
    "load_train_eval",
    "read_problem",
    "split",
    "told",
]


_ELSEWHERE = {
    "prompt": ("question", "prompt", "query", "instruction", "input", "problem", "messages"),
    "answer": (
        *("answer", "final_answer", "expected_answer", "ground_truth", "target", "gold", "label"),
        *("reward_model.ground_truth", "extra_info.answer", "solution"),
    ),
}  # what other data calls the columns, the most specific name first


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
        train = Loaded(tuple(arithmetic.problems(data.arithmetic, count=data.arithmetic.size)))
        return train, load_eval(data, num_eval=num_eval, seed=seed)
    train = load_as_configured(data.path, data)
    if data.eval_path:
        return train, load_eval(data, num_eval=num_eval, seed=seed)
    distinct = len({problem.text for problem in train.problems})
    count = num_eval if num_eval < distinct or distinct < 2 else max(1, distinct // 5)
    kept, evaluated = split(train.problems, count, seed)
    return replace(train, problems=kept), Loaded(evaluated)


def load_eval(data: DataSettings, *, num_eval: int, seed: int) -> Loaded:
    """Load at most ``num_eval`` problems of ``eval_path``, or held-out ones of the built-in task.

    Raises:
        DataError: a file, row or field is missing or unusable.
    """
    if not data.eval_path:
        return Loaded(tuple(arithmetic.problems(data.arithmetic, count=num_eval, on_held_out=True)))
    loaded = load_as_configured(data.eval_path, data, held_out=True)
    if num_eval >= len(loaded.problems):
        return loaded
    return replace(loaded, problems=split(loaded.problems, num_eval, seed)[1])


def split(problems: Iterable[Problem], num_eval: int, seed: int) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Hold out ``num_eval`` problems at random; both parts keep their order.

    Problems with the same question (and turns before it) stay together, so the held-out part may be slightly smaller.

    Raises:
        DataError: nothing would be left to train on, or to evaluate on.
    """
    listed = tuple(problems)
    prompts = sorted({problem.text for problem in listed})
    if num_eval >= len(prompts):
        raise DataError(
            f"{len(prompts)} distinct problems cannot provide {num_eval} held-out ones and leave any to train on; "
            "set data.eval_path, or evaluate on fewer (eval.size)"
        )
    python_random("split", seed).shuffle(prompts)
    counts = dict.fromkeys(prompts, 0)
    for problem in listed:
        counts[problem.text] += 1
    chosen: set[str] = set()
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
        tuple(problem for problem in listed if problem.text not in chosen),
        tuple(problem for problem in listed if problem.text in chosen),
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

    def record(row: Mapping[str, object], name: str) -> Problem:
        for setting in [each for each in unseen if optional(row, unseen[each]) is not None]:
            del unseen[setting]
        problem, found = read_problem(row, names, name, answer_pattern=answer_pattern)
        read[found] += 1
        return problem

    loaded = [
        load_records(
            each,
            record,
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
        for setting in ("solution", "variants", "id")
        if getattr(names, setting) != getattr(usual, setting)
    }


def read_problem(
    row: Mapping[str, object],
    names: FieldNames,
    default_id: str,
    *,
    answer_pattern: str = "",
) -> tuple[Problem, Found]:
    """The problem in a data row, and how its answer was read; the id is ``default_id`` if the row has none.

    Answers are text: ``142.0`` becomes ``"142"``, a list keeps all its answers. A longer text is read by
    `read_reference`; if it is a worked solution, and the row has none, it becomes the problem's solution. A solution
    that ends in ``#### ANSWER`` ends in a box instead.

    Args:
        row: the row.
        names: which column holds what.
        default_id: for a row without one.
        answer_pattern: a regular expression that finds the answer in its column.

    Raises:
        BadRowError: the row is unusable; the message says why.
        DataError: the pattern takes too long.
    """
    asked = read_prompt(_column(row, names, "prompt"), names.prompt)
    worked = optional(row, names.solution)
    if worked is not None and not is_text(worked, names.solution):
        raise BadRowError(f"field '{names.solution}': {described(worked)}, wanted text or null")
    references = _references(_column(row, names, "answer"), names.answer, answer_pattern)
    used = {names.prompt, names.answer, names.solution, names.variants, names.id}
    problem = Problem(
        id=row_id(row, names.id, default_id),
        prompt=asked.prompt,
        answers=tuple(each.answer for each in references),
        solution=boxed_solution(worked or "") or references[0].worked,
        variants=_variants(optional(row, names.variants), names.variants, asked.prompt),
        meta={key: value for key, value in row.items() if key not in used},
        earlier=asked.earlier,
        system=asked.system,
        as_messages=asked.as_messages,
        columns={key: value for key, value in row.items() if key != names.prompt},
    )
    return problem, references[0].found


def _column(row: Mapping[str, object], names: FieldNames, role: str) -> object:
    """The value of a required column; the error offers the settings for columns that usually hold it elsewhere.

    Raises:
        BadRowError: the row has no such column.
    """
    try:
        return required(row, getattr(names, role))
    except BadRowError as error:
        missing = [each for each in _ELSEWHERE if optional(row, getattr(names, each)) is None]
        offered = {each: found for each in missing if (found := _offered(row, names, each))}
        hints = " ".join(f"data.fields.{each}={name}" for each, name in offered.items())
        raise BadRowError(str(error), f"Set {hints}" if role in offered else "") from None


def _offered(row: Mapping[str, object], names: FieldNames, role: str) -> str:
    """The row's column that other data uses for a role, whatever its capitals; empty if there is none."""
    spelled = {name.lower(): name for name in row}
    for known in _ELSEWHERE[role]:
        outer, dot, inner = known.partition(".")
        name = f"{spelled.get(outer, outer)}{dot}{inner}"
        if name not in (names.prompt, names.answer) and optional(row, name) is not None:
            return name
    return ""


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


def _references(value: object, name: str, pattern: str) -> list[Reference]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise BadRowError(f"field '{name}': an empty list, wanted an answer")
    texts = [_answer(each, name) for each in values]
    try:
        return [read_reference(text, pattern) for text in texts]
    except ValueError:
        raise BadRowError(f"field '{name}': data.answer_pattern matches nothing in {texts[0][:80]!r}") from None


def _answer(value: object, name: str) -> str:
    if is_text(value, name) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise BadRowError(f"field '{name}': {described(value)}, wanted text, a finite number or a list of them")


def _variants(value: object, name: str, prompt: str) -> tuple[str, ...]:
    """Other phrasings, without duplicates or the original."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise BadRowError(f"field '{name}': {described(value)}, wanted a list of texts")
    for each in value:
        if not is_text(each, name) or not each.strip():
            raise BadRowError(f"field '{name}': contains {described(each)}, wanted only texts")
    return tuple(text for text in dict.fromkeys(value) if text != prompt)
