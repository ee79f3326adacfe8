"""``edge-grpo show-config`` and ``edge-grpo methods``."""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.completion import complete_kinds, complete_settings

__all__ = ["methods", "show_config"]


def show_config(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [SECTION ...] [key=value ...]",
            help="A YAML file, the sections to show (train, model.lora; default: all), and settings that override.",
            autocompletion=complete_settings,
        ),
    ] = None,
) -> None:
    """Print every setting as it would be used, and the hash of all of them; or only some sections."""
    from edge_grpo.config.tree import config_hash, load_config, located, split_words, to_tree, to_yaml  # noqa: PLC0415

    words, chosen = _sections(settings or [])
    tree = located(to_tree(load_config(*split_words(words))))
    shown = _only(tree, chosen) if chosen else tree
    print(f"# edge-grpo configuration {config_hash(tree)}\n{to_yaml(shown)}", end="")


def _sections(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without the names of sections and settings, and these names."""
    named = [word for word in words if "=" not in word and not word.endswith((".yaml", ".yml"))]
    chosen = [word for word in named if not Path(word).is_file()]
    return [word for word in words if word not in chosen], chosen


def _only(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The tree with these sections and settings alone.

    Raises:
        ConfigError: there is no such section or setting.
    """
    found: dict[str, Any] = {}
    for name in names:
        value: Any = tree
        section, keys = found, name.split(".")
        for depth, key in enumerate(keys):
            if not isinstance(value, Mapping) or key not in value:
                known = list(value) if isinstance(value, Mapping) else []
                close = difflib.get_close_matches(key, known, n=1)
                hint = f" (did you mean '{'.'.join([*keys[:depth], *close])}'?)" if close else ""
                raise ConfigError(f"'{name}': no such section, setting or configuration file{hint}")
            value = value[key]
            if depth < len(keys) - 1:
                section = section.setdefault(key, {})
        section[keys[-1]] = value
    return found


def methods(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]", help="Describe this method, with its settings.", autocompletion=complete_kinds
        ),
    ] = "",
) -> None:
    """List the methods with their papers, or describe one; docs/methods has a page on each."""
    from edge_grpo.methods import METHODS  # noqa: PLC0415 - imports torch

    if name:
        _describe(name)
        return
    table = Table("method=", "paper", "what it is", box=SIMPLE_HEAD, pad_edge=False)
    for kind, cls in METHODS.items():
        text = (cls.__doc__ or "").strip()
        table.add_row(kind, _paper(text), text.splitlines()[0].rstrip("."))
    Console().print(table)


def _describe(name: str) -> None:
    """One method: what it is, its paper, and its settings as they would be used."""
    from edge_grpo.config.tree import load_config, to_tree, to_yaml  # noqa: PLC0415 - imports torch
    from edge_grpo.methods import METHODS  # noqa: PLC0415

    own = to_tree(load_config(None, [f"method={name}"]))["method"]
    del own["kind"]
    cls = METHODS[name]
    text = inspect.getdoc(cls) or ""
    print(f"method={name}: {_paper(text)}\n\n{_unmarked(text)}\n")
    print(f"Settings (method.NAME=VALUE) and their defaults:\n\n{to_yaml(own)}")
    if cls.train_defaults:
        print(f"Its own defaults for the train section (train.NAME=VALUE):\n\n{to_yaml(cls.train_defaults)}")


def _unmarked(docstring: str) -> str:
    """The text without the markup of Sphinx; formulas stay LaTeX."""
    text = docstring.replace(".. math::", "Formula (LaTeX):").replace("``", "`")
    return re.sub(r":math:`([^`]*)`", r"$\1$", text)


def _paper(docstring: str) -> str:
    """The arXiv number at the start of the Source section, or the software that it names instead."""
    source = " ".join(docstring.partition("Source:")[2].split())
    first = re.split(r"[,;] ", source)[:3]  # authors, title, number
    found = re.search(r"arXiv:\d{4}\.\d{5}", " ".join(first))
    return found[0] if found else first[0]
