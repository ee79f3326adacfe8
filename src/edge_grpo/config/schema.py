"""The JSON schema of a run's settings: types, bounds, defaults, meanings and sources, from the settings classes.

``schema.json`` beside this module is what :func:`build` returns, so that the command line can show settings and
complete their names without importing any of the classes.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from edge_grpo.config.meanings import Meaning, meanings, source_of, summary_of
from edge_grpo.config.reference import SOURCE
from edge_grpo.config.tree import Config

__all__ = ["build", "main", "text"]


def build() -> dict[str, Any]:
    """The schema of a YAML file of settings (draft 2020-12).

    It accepts what the loader accepts, as far as one setting decides: rules about several settings at once, and values
    that the loader would convert (numbers in quotes), are left to the loader.
    """
    schema = TypeAdapter(Config).json_schema()
    definitions: dict[str, dict[str, Any]] = {**schema.pop("$defs"), "Config": schema}
    for cls in _classes(Config):
        _describe(definitions[cls.__name__], cls)
    _choose_by_kind(schema["properties"]["method"], definitions, default=Config().method.kind)
    _choose_by_kind(definitions["RolloutSettings"]["properties"]["engine"], definitions, default="hf")
    del definitions["Config"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of an edge-grpo run",
        **_untitled(schema),
        "$defs": {name: _untitled(definitions[name]) for name in sorted(definitions)},
    }


def text(schema: Mapping[str, Any]) -> str:
    """A schema as the text of its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the schema to stdout: ``make schema`` puts it into the package's file."""
    sys.stdout.write(text(build()))


def _classes(root: type) -> set[type]:
    """A settings class, and all that its settings may hold."""
    found, new = {root}, [root]
    while new:
        hints = get_type_hints(new.pop(), include_extras=True).values()
        inside = {each for hint in hints for each in _parts(hint) if is_dataclass(each)} - found
        found |= inside
        new += inside
    return found


def _parts(hint: Any) -> Iterator[type]:
    """The classes in a type, however nested."""
    if isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _describe(node: dict[str, Any], cls: type) -> None:
    """Add the meaning, the default and the source of every setting of a class, in place."""
    told, below = meanings(cls), get_type_hints(cls)
    node |= {"description": summary_of(cls), SOURCE: source_of(cls)}
    node["properties"] = {field.name: node["properties"][field.name] for field in fields(cls)}
    for name, default in _defaults(cls).items():
        setting = node["properties"][name]
        meaning = told.get(name) or Meaning(summary_of(below[name]) if is_dataclass(below[name]) else "")
        source = "" if meaning.source == node[SOURCE] else meaning.source
        setting |= {"default": default, "description": meaning.text, SOURCE: source}


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults of a class's settings, as YAML would hold them."""
    found = {}
    for field in fields(cls):
        value = field.default if field.default_factory is MISSING else field.default_factory()
        if isinstance(value, FieldInfo):
            value = value.get_default(call_default_factory=True)
        found[field.name] = TypeAdapter(Any).dump_python(value, mode="json")
    return found


def _choose_by_kind(node: dict[str, Any], definitions: Mapping[str, dict[str, Any]], *, default: str) -> None:
    """Let one word name a kind, and let a mapping without ``kind`` be of the default one, in place."""
    kinds = node.pop("discriminator")["mapping"]
    node["anyOf"] = [{"enum": list(kinds)}, *node.pop("oneOf")]
    node["default"] = default
    for kind, reference in kinds.items():
        if kind != default:
            definitions[reference.rpartition("/")[2]]["required"] = ["kind"]


def _untitled(node: Any) -> Any:
    """A schema without the titles that pydantic makes from names, and without empty keywords of ours."""
    if isinstance(node, list):
        return [_untitled(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node:
        own = {name: _untitled(each) for name, each in node["properties"].items()}
        return {**_untitled({key: each for key, each in node.items() if key != "properties"}), "properties": own}
    kept = ((key, each) for key, each in node.items() if key not in ("title", "default") and (each or key != SOURCE))
    return {
        **{key: _untitled(each) for key, each in kept},
        **({"default": node["default"]} if "default" in node else {}),
    }


if __name__ == "__main__":
    main()
