"""Settings as words of a command line: the argument that commands share, and the settings that belong to a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.completion import complete_settings

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config

__all__ = ["Settings", "config_for", "model_first"]

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [key=value ...]",
        help="A YAML file, then settings that override it.",
        autocompletion=complete_settings,
    ),
]


def config_for(words: Sequence[str] | None, model: str) -> "Config":
    """The settings for querying ``model``: the given words over those of its run, if it belongs to one.

    Raises:
        ConfigError: a setting is invalid, or ``model`` is a run without a final model.
    """
    from edge_grpo.config.sections import LoraSettings  # noqa: PLC0415 - imports pydantic
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    path, overrides = split_words(words)
    model, run = _inside_run(model)
    if run is None:
        config = load_config(path, overrides)
        return replace(config, model=replace(config.model, path=model)) if model else config
    config = load_config(path or _settings_of(run), overrides)
    return replace(config, model=replace(config.model, path=model, lora=LoraSettings()))  # merged already


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


def _inside_run(model: str) -> tuple[str, Path | None]:
    """The model that is meant, and the folder of its run, if it is a run, its ``final`` or one of its checkpoints.

    Raises:
        ConfigError: the run has no final model.
    """
    folder = Path(model).expanduser()
    places = {folder: folder / "final", folder.parent: folder, folder.parent.parent: folder}
    if not model or ((folder / "config.json").exists() and folder.name != "final"):
        return model, None
    for run, place in places.items():
        if (run / "config.yaml").is_file() and (run / "checkpoints").is_dir():
            if place.name == "final" and not place.exists():
                raise ConfigError(
                    f"--model: {run} has no final model yet; finish the run with `edge-grpo train --resume {run}`, "
                    f"take its newest checkpoint with `edge-grpo export {run} FOLDER`, or give one of "
                    f"{run / 'checkpoints'}"
                )
            return (model if place == folder else str(place)), run
    return model, None


def _settings_of(run: Path) -> dict[str, Any]:
    """The settings of a run that evaluation depends on; not its method, nor a custom engine."""
    from edge_grpo.config.tree import updated  # noqa: PLC0415 - imports torch
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415 - imports pyarrow

    tree = updated(RunFolder.read_config(run)[0]) | {"method": "edge_grpo"}
    if "class" in tree.get("rollout", {}).get("engine", {}):
        del tree["rollout"]["engine"]
    return tree
