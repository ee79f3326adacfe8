"""Print the page of all settings, in Markdown, from the settings classes and their docstrings.

python website/site_settings.py > build/docs/settings.md
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from edge_grpo.config.tree import load_config, to_tree
from edge_grpo.methods import METHODS


def page() -> Iterator[str]:
    """The lines of the page."""
    yield "# Settings"
    yield "\nEvery section with its defaults, as `edge-grpo show-config` prints them, and what they mean."
    config = load_config()
    tree = to_tree(config)
    for name in (field.name for field in dataclasses.fields(config) if field.name != "method"):
        yield from section(name, type(getattr(config, name)), tree[name])
    for kind, cls in METHODS.items():
        own = to_tree(load_config({"method": kind}))["method"]
        yield from section(f"method={kind}", cls, {key: value for key, value in own.items() if key != "kind"})


def section(name: str, cls: type, values: Mapping[str, Any]) -> Iterator[str]:
    """One section: its meaning and its defaults."""
    yield f"\n## {name}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n\n| setting | default |\n|---|---|"
    prefix = name.partition("=")[0]
    yield from (f"| `{key}` | `{value}` |" for key, value in flat(prefix, values))


def flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted names and values; an empty text is shown as quotes."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", repr(value).replace("|", "\\|")


if __name__ == "__main__":
    print("\n".join(page()))
