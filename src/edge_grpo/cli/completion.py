"""Shell completion of settings: names, values and YAML files. Imports nothing slow: it runs at every <TAB>."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from edge_grpo.config.reference import Setting

__all__ = ["complete_kinds", "complete_names", "complete_settings"]


def complete_settings(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """What may follow in ``[CONFIG.yaml] [key=value ...]``.

    Args:
        ctx: of the command; its words before are in ``params``.
        incomplete: the word so far. Of ``key=value``, bash passes ``key`` and ``=`` as words before.
    """
    words = [word for value in ctx.params.values() if isinstance(value, list | tuple) for word in value]
    known = _offered(words)
    if not incomplete and words and words[-1] in known:
        words.append("=")  # bash, before the first letter of a value: the parser drops a lone "="
    if len(words) > 1 and words[-1] == "=":
        return [(value, "") for value in _values(known, words[-2], incomplete)]
    name, equals, value = incomplete.partition("=")
    if equals:
        return [(f"{name}={one}", "") for one in _values(known, name, value)]
    names = [(f"{one.name}=", one.meaning) for one in known.values() if one.name.startswith(incomplete)]
    return [*names, *_files(incomplete)]


def complete_names(incomplete: str) -> list[tuple[str, str]]:
    """Sections and settings for ``edge-grpo settings``."""
    from edge_grpo.config.reference import sections  # noqa: PLC0415 - reads the schema

    every = sections()
    names = [(section.name, section.meaning) for section in every]
    names += [(one.name, one.meaning) for each in every for one in each.settings if not one.name.startswith("method.")]
    return [(name, told) for name, told in names if name.startswith(incomplete)]


def complete_kinds(incomplete: str) -> list[str]:
    """Kinds of method."""
    from edge_grpo.config.reference import method_setting  # noqa: PLC0415 - reads the schema

    return [kind for kind in method_setting().choices if kind.startswith(incomplete)]


def _offered(words: Sequence[str]) -> "dict[str, Setting]":
    """Settings by name; of methods, those of the one that was named before, or of the default one."""
    from edge_grpo.config.reference import method_setting, sections  # noqa: PLC0415 - reads the schema

    method = method_setting()
    joined = " ".join(words).replace(" = ", "=").split()
    chosen = next((word.partition("=")[2] for word in joined[::-1] if word.startswith("method=")), method.default)
    others = [one for one in sections() if one.name.startswith("method.") and one.name != f"method.{chosen}"]
    return {method.name: method} | {one.name: one for each in sections() if each not in others for one in each.settings}


def _values(known: "Mapping[str, Setting]", name: str, begun: str) -> list[str]:
    """The values of a setting that has only some."""
    if name not in known:
        return []
    is_list = known[name].type.startswith("list of")
    values = (f"[{value}]" if is_list else value for value in known[name].choices)
    return [value for value in values if value.startswith(begun)]


def _files(incomplete: str) -> Iterator[tuple[str, str]]:
    """YAML files, and folders on the way to them."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for path in found:
        name = str(path) + ("/" if path.is_dir() else "")
        if name.startswith(incomplete) and (path.is_dir() or path.suffix in (".yaml", ".yml")):
            yield name, ""
