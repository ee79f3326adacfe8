"""``edge-grpo settings``: every setting with its type, default, meaning and source."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.completion import complete_names
from edge_grpo.config.reference import Section, Setting, find, method_setting, sections, stored

__all__ = ["settings"]


def settings(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[SECTION|SETTING]",
            help="A section (train, model.lora), a method (method.grpo), or one setting (train.learning_rate).",
            autocompletion=complete_names,
        ),
    ] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown page.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of settings files, for YAML editors.")
    ] = False,
) -> None:
    """Explain the settings: type, default, meaning and source. Without arguments, list the sections."""
    if as_json + markdown + schema > 1:
        raise ConfigError("--json, --markdown and --schema: give one of them")
    if schema:
        if name:
            raise ConfigError(f"--schema: the schema is that of all settings; drop {name}")
        _dump(stored(), indent=1)
        return
    chosen = (find(name),) if name else sections()
    if as_json:
        _dump([asdict(section) for section in chosen], indent=2)
    elif markdown:
        print("\n".join(_page(chosen)))
    elif name:
        _explain(chosen[0])
    else:
        _overview()


def _dump(content: Any, indent: int) -> None:
    json.dump(content, sys.stdout, indent=indent, ensure_ascii=False)
    print()


def _overview() -> None:
    """The sections, and the kinds of method."""
    console = Console(highlight=False, soft_wrap=True)
    for section in sections():
        if not section.name.startswith("method."):
            console.print(f"[bold]{section.name:12}[/] {len(section.settings):3}  ", Text(section.meaning), sep="")
    method = method_setting()
    console.print("[bold]method[/]            ", Text(method.meaning), sep="")
    console.print(f"kinds of method: {' '.join(method.choices)}", soft_wrap=False)
    print("\nedge-grpo settings NAME explains a section (train), a method (method.grpo) or a setting (train.seed).")


def _explain(section: Section) -> None:
    """A section's settings, one below the other."""
    console = Console(highlight=False)
    if section.meaning:
        console.print(Text(f"{section.name}: {section.meaning}\n"))
    sources: dict[str, int] = {}
    for number, setting in enumerate(section.settings):
        console.print(end="\n" if number else "")
        values = f"  {_values(setting)}  default {_value(setting.default)}"
        console.print(Text(setting.name, "bold"), Text(values), sep="")
        told = setting.meaning
        if _is_own(setting, section):
            told += f" [{sources.setdefault(setting.source, len(sources) + 1)}]"
        console.print(Padding(Text(told), (0, 0, 0, 4), expand=False))
    if section.source or sources:
        console.print()
    if section.source:
        console.print(Text(f"Source: {section.source}"))
    for source, number in sources.items():
        console.print(Text(f"[{number}] {source}"))


def _is_own(setting: Setting, section: Section) -> bool:
    return bool(setting.source) and setting.source != section.source


def _values(setting: Setting) -> str:
    """The type, and the kind that it belongs to where the section's name does not say so."""
    of_engine = setting.kind and not setting.name.startswith("method.")
    return f"{setting.type} (kind={setting.kind})" if of_engine else setting.type


def _value(default: Any) -> str:
    """A default as it would be written in YAML."""
    return json.dumps(default, ensure_ascii=False) if default not in ("", None) else "''" if default == "" else "null"


def _page(chosen: tuple[Section, ...]) -> Iterator[str]:
    """A Markdown page."""
    yield "# Settings"
    yield ""
    yield "Printed by `edge-grpo settings --markdown`, from the docstrings of the settings."
    for section in chosen:
        yield f"\n## {section.name}\n\n{_literal(section.meaning)}"
        if section.source:
            yield f"\nSource: {_literal(section.source)}"
        yield "\n| setting | type | default | meaning |\n|---|---|---|---|"
        sources: dict[str, int] = {}
        for setting in section.settings:
            told = _literal(setting.meaning)
            if _is_own(setting, section):
                told += f" \\[{sources.setdefault(setting.source, len(sources) + 1)}\\]"
            cells = (f"`{setting.name}`", _literal(_values(setting)), f"`{_value(setting.default)}`", told)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        if sources:
            yield "\nSources of single settings:\n"
            yield from (f"{number}. {_literal(source)}" for source, number in sources.items())


def _literal(text: str) -> str:
    """Text whose characters Markdown and HTML leave alone, outside of its code spans."""
    parts = text.split("`")
    plain = [part.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_") for part in parts[::2]]
    parts[::2] = plain
    return "`".join(parts)
