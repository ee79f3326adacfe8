"""Space files: read and checked, with every mistake reported in one line before any training starts."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.explain import shortened
from edge_grpo.config.tree import read_yaml
from edge_grpo.tune.space import (
    Categorical,
    Continuous,
    EarlyStop,
    Integer,
    Log,
    Objective,
    Space,
    Value,
    config_at,
)

__all__ = ["load_space"]

_KINDS: Mapping[str, type] = {"continuous": Continuous, "log": Log, "integer": Integer, "categorical": Categorical}
_SECTIONS: Mapping[str, type] = {"objective": Objective, "early_stop": EarlyStop}
_WANTED = {  # by setting; "*" matches any name
    "settings": "a list of section.setting=value, such as [train.steps=8]",
    "settings.*": "section.setting=value, such as train.steps=8",
    "space": "settings with their ranges, such as train.learning_rate: {type: log, low: 1.0e-5, high: 1.0e-3}",
    "space.*": "a range, such as {type: log, low: 1.0e-5, high: 1.0e-3}",
    "space.*.also": "a list of settings, such as [method.clip_high]",
    "space.*.values": "a list of at least two values, such as [linear, cosine]",
    "space.*.values.*": "a number, text, true or false",
    "objective": "a section with weights, such as {weights: {3: 0.5, 4: 0.5}}",
    "objective.weights": "parts with their weights, such as {3: 0.5, 4: 0.5}",
    "early_stop": "a section, such as {enabled: true}",
}
_FIXED = {
    "run": "the study decides where runs are kept",
    "eval": "all trials are evaluated in the same way",
}


def load_space(path: str) -> Space:
    """Read a space file, and check that every setting in it exists and accepts its values.

    ``base``, ``suite`` and ``data_dir`` are looked up next to the file, then in the current folder.

    Raises:
        ConfigError: the file is invalid, with the reason in one line.
    """
    tree = read_yaml(path)
    for name in ("space", "objective"):
        if name not in tree:
            raise ConfigError(f"{path}: has no '{name}:' section; add one, see docs/tuning.md")
    try:
        space = TypeAdapter(Space).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_explained(error))}") from None
    folder = Path(path).expanduser().parent
    suite, data_dir = (_found(own, folder) for own in (space.objective.suite, space.objective.data_dir))
    objective = replace(space.objective, suite=suite, data_dir=data_dir)
    space = replace(space, base=_found(space.base, folder), objective=objective)
    try:
        _check_names(space, folder)
        _check_values(space)
    except ConfigError as error:
        raise ConfigError(f"{path}: {'; '.join(str(error).splitlines())}") from None
    return space


def _check_names(space: Space, folder: Path) -> None:
    """Reject settings that cannot be searched, and files that do not exist."""
    fixed = {word.partition("=")[0] for word in space.settings}
    for name in (name for key, each in space.space.items() for name in (key, *each.also)):
        why = _FIXED.get(name.partition(".")[0])
        if why:
            raise ConfigError(f"space.{name}: cannot be searched, because {why}; drop it")
        if name in fixed:
            raise ConfigError(f"space.{name}: also fixed in 'settings'; drop one of the two")
    suite, data_dir = space.objective.suite, space.objective.data_dir
    no_suite = suite.endswith((".yaml", ".yml")) and not Path(suite).exists()
    for name, place, missing in (
        ("suite", suite, no_suite),
        ("data_dir", data_dir, bool(data_dir) and not Path(data_dir).exists()),
    ):
        if missing:
            raise ConfigError(
                f"objective.{name}: no {place} in {folder.absolute()} or the current folder; fix the path"
            )


def _check_values(space: Space) -> None:
    """Reject values that the configuration does not accept."""
    base = config_at(space, {})
    if space.early_stop.enabled and not base.eval.every:
        raise ConfigError("early_stop: needs evaluations, but eval.every is 0; set the steps between evaluations")
    for name, value in _one_by_one(space):
        try:
            config_at(space, {name: value})
        except ConfigError as error:
            hint = "; give its range 'type: integer'" if "wanted a whole number" in str(error) else ""
            raise ConfigError(f"{error}{hint}") from None


def _one_by_one(space: Space) -> Iterator[tuple[str, Value]]:
    """Each setting with both ends of its range and a value in between, or with each of its values."""
    for name, each in space.space.items():
        values = each.values if isinstance(each, Categorical) else (each.value(0), each.value(0.381966), each.value(1))
        yield from ((name, value) for value in values)


def _found(path: str, folder: Path) -> str:
    """The absolute path of a file named in a space file, looked up in that file's folder, then in the current one."""
    places = [place.resolve() for place in (folder / path, Path(path).expanduser()) if path and place.exists()]
    return str(places[0]) if places else path


def _explained(error: ValidationError) -> list[str]:
    """One line per mistake in a space file."""
    lines: dict[str, str] = {}
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        if loc[:1] == ["space"] and len(loc) > 2:
            del loc[2]  # the type of the range
        if loc[:1] == ["space"] and loc[2:3] == ["values"]:
            del loc[4:]  # the types that the value was tried as
        if loc[:2] == ["objective", "weights"] and loc[-1] == "[key]":
            del loc[2:]
        lines.setdefault(".".join(loc), f"{'.'.join(loc)}: {_reason(loc, item)}" if loc else _reason(loc, item))
    return list(lines.values())


def _reason(loc: Sequence[str], item: Mapping[str, Any]) -> str:
    """What is wrong with one setting in a space file."""
    given, kind = item["input"], item["type"]
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    kinds = f"wanted one of {', '.join(_KINDS)}"
    if kind == "union_tag_not_found":
        return f"has no type, {kinds}"
    if kind == "union_tag_invalid":
        given = given.get("type") if isinstance(given, Mapping) else given
        return f"got type {shortened(repr(given))}, {kinds}"
    if kind == "unexpected_keyword_argument":
        close = difflib.get_close_matches(loc[-1], _names(item["loc"]), n=1)
        return "no such setting" + (f" (did you mean '{close[0]}'?)" if close else "")
    if kind in ("missing", "missing_argument"):
        return "is missing"
    if kind == "value_error":
        return str(message)
    form = [part if place != 1 and not part.isdecimal() else "*" for place, part in enumerate(loc)]
    wanted = None if kind.endswith(("_than", "_than_equal", "_number")) else _WANTED.get(".".join(form))
    return f"got {shortened(repr(given))}, wanted {wanted or message[0].lower() + message[1:]}"


def _names(loc: Sequence[Any]) -> list[str]:
    """The settings of the section that an error lies in."""
    section: Any = Space
    if len(loc) > 1:
        section = _KINDS.get(str(loc[2])) if loc[0] == "space" else _SECTIONS.get(str(loc[0]))
    return [field.name for field in fields(section)] if section else []
