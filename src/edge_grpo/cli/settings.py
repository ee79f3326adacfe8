"""Settings as words of a command line: the argument that commands share, and the settings that belong to a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_grpo.base.errors import ConfigError

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config

__all__ = ["Settings", "config_for", "model_first"]

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", help="A YAML file, then settings that override it."),
]


def config_for(words: Sequence[str] | None, model: str) -> "Config":
    """The settings for querying ``model``: the given words over those of its run, if it is a run's ``final`` folder.

    Raises:
        ConfigError: a setting is invalid, or ``model`` is a run folder instead of the model inside it.
    """
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    path, overrides = split_words(words)
    folder = Path(model).expanduser()
    if (folder / "config.yaml").exists() and (folder / "final").exists():
        raise ConfigError(f"--model: {model} is a run folder; give {folder / 'final'}")
    base = None
    if not path and folder.name == "final" and (folder.parent / "config.yaml").exists():
        from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415 - imports pyarrow

        base = RunFolder.read_config(folder.parent)[0] | {"method": "edge_grpo"}  # evaluation does not depend on it
    config = load_config(path or base, overrides)
    return replace(config, model=replace(config.model, path=model)) if model else config


def model_first(words: Sequence[str] | None, model: str) -> tuple[list[str], str]:
    """Settings and model, where the model may also be the first word: a folder or hub name, not a YAML file.

    Raises:
        ConfigError: two models are named.
    """
    rest = list(words or [])
    if not rest or "=" in rest[0] or rest[0].endswith((".yaml", ".yml")):
        return rest, model
    if model:
        raise ConfigError(f"two models: '{rest[0]}' and --model {model}; name one")
    return rest[1:], rest[0]
