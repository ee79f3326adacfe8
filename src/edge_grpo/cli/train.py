"""``edge-grpo train``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.launch import Processes, launch, launched
from edge_grpo.cli.progress import waiting
from edge_grpo.cli.settings import Settings

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config

__all__ = ["train"]


def train(
    settings: Settings = None,
    resume: Annotated[str, typer.Option(metavar="RUN_DIR", help="Resume this run.")] = "",
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="With --resume: accept that data, model or reward code changed."),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace two steps with torch.profiler, and show where the time went.")
    ] = False,
    processes: Processes = 0,
) -> None:
    """Train a model. Without arguments: the bundled model on built-in arithmetic with EDGE-GRPO.

    `--profile` writes `profile/trace.json.gz` into the run folder and changes no result.

    Ctrl-C and SIGTERM drop a step that has not updated the weights yet and finish one that has, then write a
    checkpoint; a second signal exits at once. `--resume` continues from either. Exit codes: 0 finished, 130 stopped by
    Ctrl-C, 143 by SIGTERM, 2 for an error, reported in one line.
    """
    if accept_changes and not resume:
        raise ConfigError("--accept-changes: a new run has nothing to compare its inputs with; add --resume RUN_DIR")
    config = _resumed(resume, settings) if resume else _fresh(settings)
    if launched(processes):
        raise typer.Exit(launch(processes))

    with waiting("loading the libraries"):  # model code, which a mistyped setting must not wait for
        from edge_grpo.config.tree import parse_tree, updated  # noqa: PLC0415
        from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415
        from edge_grpo.trackers.console import LiveDisplay, Output, PlainDisplay, decoding, summary  # noqa: PLC0415
        from edge_grpo.trackers.profile import Profile  # noqa: PLC0415
        from edge_grpo.training import loop  # noqa: PLC0415

    console = Output()
    display = LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
    trackers = [partial(Profile, say=display.say)] if profile else []
    if resume or config is None:
        result = loop.resume(resume, config, display=display, trackers=trackers, accept_changes=accept_changes)
    else:
        result = loop.train(config, display=display, trackers=trackers)
    if result.signal:
        raise typer.Exit(128 + result.signal)
    rows = list(RunFolder(result.folder).rows())
    used = parse_tree(updated(RunFolder.read_config(result.folder)[0]))
    sampled, held_out = (decoding(part.temperature) for part in (used.rollout, used.eval))
    console.print(summary(rows, sampled=sampled, held_out=held_out))
    display.say(f"run folder: {result.folder}   model: {result.folder / 'final'}")


def _fresh(words: Sequence[str] | None) -> "Config":
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    return load_config(*split_words(words))


def _resumed(folder: str, words: Sequence[str] | None) -> "Config | None":
    """The run's settings with the given changes; None where nothing was given."""
    from edge_grpo.config.tree import load_config, split_words, updated  # noqa: PLC0415 - imports torch
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415

    path, overrides = split_words(words)
    base = updated(RunFolder.read_config(Path(folder).expanduser())[0]) if not path else None
    return load_config(path or base, overrides) if path or overrides else None
