"""All settings as a list, read from the package's ``schema.json``: no settings class is imported for it."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from edge_grpo.base.errors import ConfigError

__all__ = ["SOURCE", "Section", "Setting", "find", "method_setting", "sections", "stored"]

SOURCE: Final = "x-source"
"""The schema's keyword for the paper or software that a setting comes from; editors ignore it."""

_BOUNDS: Final = {
    "minimum": "at least {:g}",
    "exclusiveMinimum": "more than {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "less than {:g}",
}
_TYPES: Final = {"string": "text", "boolean": "true | false", "integer": "integer", "number": "number", "null": "null"}


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, type, default as YAML would hold it, meaning and source (empty = this project).

    ``kind`` is the kind of method or engine that has it; empty = it is always there. ``choices`` are its values, where
    only some words are allowed.
    """

    name: str
    type: str
    default: Any
    meaning: str
    source: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section, or one kind of method: its name, meaning, source and settings."""

    name: str
    meaning: str
    source: str
    settings: tuple[Setting, ...]


@cache
def stored() -> dict[str, Any]:
    """The schema in the package."""
    file = resources.files("edge_grpo.config").joinpath("schema.json")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def method_setting() -> Setting:
    """The setting ``method``, whose choices are the kinds of method."""
    node = stored()["properties"]["method"]
    choices = tuple(node["anyOf"][0]["enum"])
    return Setting("method", " | ".join(choices), node["default"], node["description"], choices=choices)


@cache
def sections() -> tuple[Section, ...]:
    """Every section, with one for each kind of method (``method.grpo``)."""
    found = []
    for name, node in stored()["properties"].items():
        if name == "method":
            for reference in node["anyOf"][1:]:
                own = _resolved(reference)
                kind = own["properties"]["kind"]["const"]
                told = tuple(_settings(own, name, own.get(SOURCE, ""), kind))
                found.append(Section(f"{name}.{kind}", own["description"], own.get(SOURCE, ""), told))
        else:
            own = _resolved(node)
            source = own.get(SOURCE, "")
            found.append(Section(name, own["description"], source, tuple(_settings(own, name, source))))
    return tuple(found)


def find(name: str) -> Section:
    """The section, part of a section, or single setting of a name; ``method`` alone is the default method.

    Args:
        name: such as ``train``, ``train.learning_rate``, ``model.lora``, ``method.grpo``, ``method.grpo.beta``.
    Raises:
        ConfigError: there is none; says which may be meant.
    """
    wanted, method = name.strip("."), method_setting()
    if wanted == "method" or (wanted.startswith("method.") and wanted.split(".")[1] not in method.choices):
        wanted = f"method.{method.default}{wanted.removeprefix('method')}"
    for section in sections():
        if wanted == section.name:
            return section
        if not wanted.startswith(f"{section.name}."):
            continue
        inner = wanted.replace(section.name, "method", 1) if section.name.startswith("method.") else wanted
        chosen = tuple(one for one in section.settings if one.name == inner or one.name.startswith(f"{inner}."))
        if chosen:
            return Section(wanted, "", section.source, chosen)
    raise ConfigError(f"'{name}': no such section or setting{_hint(name)}; `edge-grpo settings` lists the sections")


def _settings(
    node: Mapping[str, Any], prefix: str, source: str, kind: str = "", defaults: Mapping[str, Any] | None = None
) -> Iterator[Setting]:
    """The settings of an object, and of the objects in it."""
    for own, each in node["properties"].items():
        name, default = f"{prefix}.{own}", (defaults or {}).get(own, each.get("default"))
        told = each.get(SOURCE) or source
        target = _resolved(each)
        if own == "kind":
            continue
        if "properties" in target:
            yield from _settings(target, name, target.get(SOURCE) or told, kind, default)
            continue
        variants = [_resolved(one) for one in each.get("anyOf", ()) if "$ref" in one]
        choices = tuple(str(one) for one in _choices(each))
        yield Setting(name, _type(each), default, each["description"], told, kind, choices)
        for variant in variants:
            own_kind = variant["properties"]["kind"]["const"]
            yield from _settings(variant, name, variant.get(SOURCE) or told, own_kind)


def _resolved(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node with what its reference stands for; its own keywords win."""
    if "$ref" not in node:
        return dict(node)
    return {**stored()["$defs"][node["$ref"].rpartition("/")[2]], **node}


def _choices(node: Mapping[str, Any]) -> Sequence[Any]:
    """The values that a setting, or each entry of its list, is limited to."""
    if node.get("type") == "boolean":
        return ("true", "false")
    inner: Mapping[str, Any] = next((one for one in node.get("anyOf", ()) if "enum" in one), {})
    found: Sequence[Any] = node.get("enum") or inner.get("enum") or (_choices(node["items"]) if "items" in node else ())
    return found or ([node["const"]] if "const" in node else [])


def _type(node: Mapping[str, Any]) -> str:
    """A type in words."""
    if several := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in several if "$ref" not in one))
    if "enum" in node:
        return " | ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    if node.get("type") == "array":
        return f"list of {_type(node.get('items', {}))}"
    if node.get("type") == "object":
        inner = node.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, Mapping) else "mapping"
    bounds = [form.format(node[keyword]) for keyword, form in _BOUNDS.items() if keyword in node]
    bounds += [f"matching {node['pattern']}"] if "pattern" in node else []
    return ", ".join([_TYPES.get(node.get("type", ""), "any value"), *bounds])


def _hint(name: str) -> str:
    """What may be meant by a wrong name; empty if nothing is close."""
    from edge_grpo.config.explain import ELSEWHERE  # noqa: PLC0415 - imports torch

    leaf = name.rpartition(".")[2]
    if name in method_setting().choices:
        return f" (did you mean 'method.{name}'?)"
    if leaf in ELSEWHERE:
        return f" (did you mean '{ELSEWHERE[leaf]}'?)"
    known = [section.name for section in sections()]
    names = dict.fromkeys(one.name for section in sections() for one in section.settings)
    same = [one for one in names if one.rpartition(".")[2] == leaf]
    close = same or difflib.get_close_matches(name, [*known, *names], n=1)
    return f" (did you mean {' or '.join(map(repr, close[:3]))}?)" if close else ""
