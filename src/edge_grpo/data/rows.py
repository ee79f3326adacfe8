"""One data row as a problem."""

import math
from collections.abc import Mapping
from pathlib import Path

from edge_grpo.base.records import Picture, Problem
from edge_grpo.base.text import listed_in_text
from edge_grpo.data.messages import Conversation, read_prompt
from edge_grpo.data.pictures import (
    PLACEHOLDER,
    ImageSettings,
    check_placeholders,
    looks_like_image,
    read_pictures,
)
from edge_grpo.data.readers import BadRowError, described, is_text, optional, required, row_id
from edge_grpo.data.settings import FieldNames
from edge_grpo.rewards.references import Found, Reference, boxed_solution, read_reference

__all__ = ["read_problem"]

_ELSEWHERE = {
    "prompt": ("question", "prompt", "query", "instruction", "input", "problem", "messages"),
    "answer": (
        *("answer", "final_answer", "expected_answer", "ground_truth", "target", "gold", "label"),
        *("reward_model.ground_truth", "extra_info.answer", "solution"),
    ),
    "images": ("image", "images", "picture", "pictures", "img"),
}  # what other data calls the columns, the most specific name first


def read_problem(
    row: Mapping[str, object],
    names: FieldNames,
    default_id: str,
    *,
    answer_pattern: str = "",
    images: ImageSettings = ImageSettings(),  # noqa: B008 - frozen
    folder: Path = Path(),
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
        images: limits and scale of images.
        folder: what their paths are relative to.

    Raises:
        BadRowError: the row is unusable; the message says why.
        DataError: the pattern takes too long.
    """
    asked = read_prompt(_column(row, names, "prompt"), names.prompt)
    worked = optional(row, names.solution)
    if worked is not None and not is_text(worked, names.solution):
        raise BadRowError(f"field '{names.solution}': {described(worked)}, wanted text or null")
    references = _references(_column(row, names, "answer"), names.answer, answer_pattern)
    used = {names.prompt, names.answer, names.solution, names.variants, names.images, names.id}
    name = row_id(row, names.id, default_id)
    pictures = _pictures(row, names, asked, f"problem {name!r}", folder=folder, images=images)
    variants = _variants(optional(row, names.variants), names.variants, asked.prompt)
    for number, text in enumerate(variants, 1):
        try:
            check_placeholders([*asked.earlier, text], pictures, names.images)
        except BadRowError as error:
            raise BadRowError(f"field '{names.variants}', text {number}: {error}", error.remedy) from None
    problem = Problem(
        id=name,
        prompt=asked.prompt,
        answers=tuple(each.answer for each in references),
        solution=boxed_solution(worked or "") or references[0].worked,
        variants=variants,
        meta={key: value for key, value in row.items() if key not in used},
        earlier=asked.earlier,
        system=asked.system,
        as_messages=asked.as_messages,
        columns={key: value for key, value in row.items() if key not in (names.prompt, names.images)},
        images=pictures,
    )
    return problem, references[0].found


def _pictures(
    row: Mapping[str, object],
    names: FieldNames,
    asked: Conversation,
    where: str,
    *,
    folder: Path,
    images: ImageSettings,
) -> tuple[Picture, ...]:
    """The images of a row, from its column or from its messages, one for each placeholder.

    Raises:
        BadRowError: one is unusable, or has no placeholder, or a placeholder has none.
    """
    column = optional(row, names.images)
    if asked.images and column is not None:
        raise BadRowError(
            f"field '{names.images}': the messages in '{names.prompt}' have images of their own; drop one"
        )
    value = list(asked.images) if asked.images else column
    pictures = read_pictures(value, names.prompt if asked.images else names.images, where, folder=folder, images=images)
    try:
        check_placeholders([*asked.earlier, asked.prompt], pictures, names.images)
    except BadRowError as error:
        other = "" if pictures else _offered(row, names, "images")
        remedy = f"Set data.fields.images={other}" if other else error.remedy
        raise BadRowError(f"field '{names.prompt}': {error}", remedy) from None
    other = "" if pictures or column is not None else _offered(row, names, "images")
    if other and looks_like_image(row[other]):
        raise BadRowError(
            f"field '{other}' has images, which would be left out",
            f"Set data.fields.images={other} and write {PLACEHOLDER} where each image stands, or drop the field",
        )
    return pictures


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
        if name not in (names.prompt, names.answer, names.images) and optional(row, name) is not None:
            return name
    return ""


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
    if isinstance(value, str) and value.strip().startswith("["):  # a list written as text: JSON's, or Python's
        value = listed_in_text(value)
    if not isinstance(value, list | tuple):
        raise BadRowError(f"field '{name}': {described(value)}, wanted a list of texts")
    for each in value:
        if not is_text(each, name) or not each.strip():
            raise BadRowError(f"field '{name}': contains {described(each)}, wanted only texts")
    return tuple(text for text in dict.fromkeys(value) if text != prompt)
