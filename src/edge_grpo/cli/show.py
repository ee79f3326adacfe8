"""``edge-grpo show-config`` and ``edge-grpo methods``."""

import re

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.cli.settings import Settings

__all__ = ["methods", "show_config"]


def show_config(settings: Settings = None) -> None:
    """Print every setting as it would be used, and the hash of all of them."""
    from edge_grpo.config.tree import config_hash, load_config, located, split_words, to_tree, to_yaml  # noqa: PLC0415

    tree = located(to_tree(load_config(*split_words(settings))))
    print(f"# edge-grpo configuration {config_hash(tree)}\n{to_yaml(tree)}", end="")


def methods() -> None:
    """List the methods with their papers; docs/methods has a page on each."""
    from edge_grpo.methods import METHODS  # noqa: PLC0415 - imports torch

    table = Table("method=", "paper", "what it is", box=SIMPLE_HEAD, pad_edge=False)
    for kind, cls in METHODS.items():
        text = (cls.__doc__ or "").strip()
        table.add_row(kind, _paper(text), text.splitlines()[0].rstrip("."))
    Console().print(table)


def _paper(docstring: str) -> str:
    """The arXiv number at the start of the Source section, or the software that it names instead."""
    source = " ".join(docstring.partition("Source:")[2].split())
    first = re.split(r"[,;] ", source)[:3]  # authors, title, number
    found = re.search(r"arXiv:\d{4}\.\d{5}", " ".join(first))
    return found[0] if found else first[0]
