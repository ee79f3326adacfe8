"""``edge-grpo doctor``: what would not work on this machine, and the fix."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edge_grpo.base.errors import EdgeGrpoError
from edge_grpo.base.text import counted, on_one_line
from edge_grpo.cli.settings import Settings

if TYPE_CHECKING:
    from edge_grpo.planning.findings import Finding

__all__ = ["doctor"]

_MARKS = {"fine": "[green]ok[/]    ", "note": "[yellow]note[/]  ", "broken": "[red]BROKEN[/]"}


def doctor(
    settings: Settings = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Import no large package, and start no worker: about a second.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what would not work here: packages, devices, threads, memory, disk, locks, grading workers, servers.

    With the arguments of `edge-grpo train`, also whether the rollout servers that they name answer, and whether their
    trackers are installed. Prints a line for each check, with the fix where it needs one. Exit codes: 0 runs work here,
    1 something essential is broken.
    """
    from edge_grpo.planning.doctor import examine  # noqa: PLC0415

    asked = _asked(settings)
    console, found = Console(), []
    for each in chain(
        asked.unread,
        examine(asked.runs, thorough=not quick, urls=asked.urls, trackers=asked.trackers, paths=asked.paths),
    ):
        found.append(each)
        if not as_json:
            _show(console, each)
    broken = sum(each.state == "broken" for each in found)
    if as_json:
        print(json.dumps({"broken": broken, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        notes = sum(each.state == "note" for each in found)
        last = "nothing essential is broken" if not broken else f"{broken} broken"
        console.print(f"{last}; {counted(notes, 'note')}; {counted(len(found), 'check')}", highlight=False)
    if broken:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asked:
    """What the settings need here: where runs are written, servers, trackers, model and data.

    ``unread`` says why they cannot be read.
    """

    runs: Path = Path("runs")
    urls: Sequence[str] = ()
    trackers: Sequence[str] = ()
    paths: Sequence[tuple[str, str]] = ()
    unread: "Sequence[Finding]" = ()


def _asked(words: Sequence[str] | None) -> _Asked:
    """What the settings need here, as far as they can be read.

    Raises:
        ConfigError: a setting is invalid.
    """
    from edge_grpo.planning.findings import Finding, State  # noqa: PLC0415

    if not words:
        return _Asked()
    try:
        from edge_grpo.config.sections import BUNDLES  # noqa: PLC0415
        from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch
        from edge_grpo.data.settings import sources  # noqa: PLC0415

        config = load_config(*split_words(words))
    except (EdgeGrpoError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - a package that settings need is broken
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return _Asked(unread=[Finding("settings", State.BROKEN, f"cannot be read here ({why})", "see below")])
    engine = config.rollout.engine
    urls = engine.urls if engine.kind == "vllm" else ()
    data = config.data
    named = (("data.path", data.path), ("data.eval_path", data.eval_path), ("data.pairs", data.pairs))
    paths = [(setting, each) for setting, path in named if path for each in sources(path)]
    if config.model.path not in BUNDLES:
        paths.insert(0, ("model.path", config.model.path))
    return _Asked(Path(config.run.dir or "runs"), urls, config.run.trackers, paths)


def _show(console: Console, each: "Finding") -> None:
    fix = f"\n       [bold]fix[/]: {escape(each.fix)}" if each.fix else ""
    text = on_one_line(each.text)
    console.print(f"{_MARKS[each.state]} {escape(each.topic)}: {escape(text)}{fix}", highlight=False, soft_wrap=True)
