"""The command line: ``edge-grpo train | eval | make-base | compare | show-config | methods``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_grpo.errors import ConfigError, EdgeGrpoError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL post-training of language models with advantage collapse cured and shown.",
)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", help="A YAML file and settings on top of it."),
]


def main() -> None:
    """Entry point: every user mistake ends in one clear line on stderr and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app()
    except EdgeGrpoError as error:
        print(f"edge-grpo: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("edge-grpo: stopped", file=sys.stderr)
        sys.exit(130)


def _split(words: list[str] | None) -> tuple[str | None, list[str]]:
    """The YAML file, if the first word is one, and the overrides."""
    words = list(words or [])
    path = words.pop(0) if words and "=" not in words[0] else None
    for word in words:
        if "=" not in word:
            raise ConfigError(f"'{word}': wanted key=value behind the configuration file, for example train.steps=7")
    return path, words


@app.command()
def train(
    settings: Settings = None,
    resume: Annotated[str, typer.Option(metavar="RUN_DIR", help="Go on with this run.")] = "",
) -> None:
    """Train a model. With no argument: the bundled model on built-in arithmetic with EDGE-GRPO."""
    from edge_grpo import train as loop  # noqa: PLC0415 - torch is slow to import and most mistakes show before
    from edge_grpo.config import load_config  # noqa: PLC0415
    from edge_grpo.display import LiveDisplay, PlainDisplay, summary  # noqa: PLC0415
    from edge_grpo.rundir import RunFolder  # noqa: PLC0415

    path, overrides = _split(settings)
    console = Console()
    display = LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
    if resume:
        base = RunFolder.read_config(Path(resume).expanduser())[0] if not path else None
        config = load_config(path, overrides, base=base) if path or overrides else None
        result = loop.resume(resume, config, display=display)
    else:
        result = loop.train(load_config(path, overrides), display=display)
    if result.signal:
        raise typer.Exit(128 + result.signal)
    folder = RunFolder(result.folder, tensorboard=False)
    console.print(summary(list(folder.rows())))
    display.say(f"run folder: {result.folder}   model: {result.folder / 'final'}")


@app.command("show-config")
def show_config(settings: Settings = None) -> None:
    """Print all settings as they would be used, with their hash."""
    from edge_grpo.config import config_hash, load_config, to_tree, to_yaml  # noqa: PLC0415

    tree = to_tree(load_config(*_split(settings)))
    print(f"# edge-grpo configuration {config_hash(tree)}\n{to_yaml(tree)}", end="")


@app.command()
def methods() -> None:
    """List the methods, what each is, and its paper."""
    from rich.table import Table  # noqa: PLC0415

    from edge_grpo.methods import METHODS  # noqa: PLC0415

    table = Table("method", "what it is", box=None)
    for kind, cls in METHODS.items():
        table.add_row(kind, (cls.__doc__ or "").strip().splitlines()[0])
    Console().print(table)


@app.command("make-base")
def make_base(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the model is written.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
) -> None:
    """Make the small base model: supervised warm-up on arithmetic derivations."""
    from edge_grpo import sft  # noqa: PLC0415

    sft.make_base_from_words(out, settings or [])


@app.command()
def compare(
    out: Annotated[str, typer.Option(metavar="FILE", help="The page to write.")] = "docs/results/edge_grpo.md",
) -> None:
    """Train all arms of the comparison on several seeds and write the results page; resumable."""
    raise ConfigError(f"compare: not built yet ({out})")
