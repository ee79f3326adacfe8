"""``edge-grpo compare-models``."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.evaluate import DataDir, Samples, SuiteFile, benchmarks_of, metric_title, write_json
from edge_grpo.cli.launch import RERUN, Processes, launch, launched
from edge_grpo.cli.progress import target, waiting
from edge_grpo.cli.settings import Settings, config_for
from edge_grpo.config.sections import BUNDLES

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config

__all__ = ["compare_models"]


def compare_models(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, or a folder written by `edge-grpo eval`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    settings: Settings = None,
    suite: SuiteFile = "",
    data_dir: DataDir = "",
    samples: Samples = None,
    out: Annotated[str, typer.Option(metavar="FILE.json", help="Write the differences here.")] = "",
    processes: Processes = 0,
) -> None:
    """Paired difference B - A of two models on the same problems, with a 95 % interval over problems.

    Models are evaluated first, as by `edge-grpo eval` with the same options; existing answers are reused.
    """
    path, timeout_s = target(out), config_for(settings, "").distributed.timeout_s
    if launched(processes):
        raise typer.Exit(launch(processes, retry=RERUN))

    with waiting("loading the libraries"):
        from edge_grpo.base.world import join_world  # noqa: PLC0415
        from edge_grpo.cli.ask import ask  # noqa: PLC0415
        from edge_grpo.evaluation.answers import draws_of  # noqa: PLC0415
        from edge_grpo.evaluation.paired import check_alike, compare  # noqa: PLC0415

    console, evaluated = Console(), []
    world = join_world(timeout_s)
    with world.unbroken():
        for name in (a, b):
            if stored := world.first(partial(_stored, name)):
                evaluated.append(stored)
                continue
            config = world.each(partial(_config_of, name, settings))
            console.print(f"evaluating {name}", markup=False, highlight=False)
            benchmarks = world.each(partial(benchmarks_of, config, suite, data_dir))
            draws = draws_of(config, samples)
            found = ask(config, benchmarks, draws, out="", kind="eval", console=console, world=world)
            evaluated.append((found.identity, list(found.answers)))
    if not world.is_first:
        return
    check_alike(*(identity for identity, _ in evaluated))
    paired = compare(*(answers for _, answers in evaluated))
    table = Table("metric", "", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("A", "B", "B - A", "95 % interval", "A ahead", "B ahead"):
        table.add_column(title, justify="right", no_wrap=title == "95 % interval")
    metrics = dict.fromkeys(metric for row in paired.differences.values() for metric in row)
    for metric in (metric for metric in metrics if metric != "pass@1/sampled"):  # avg@k is the same
        for row, own in paired.differences.items():
            if metric in own:
                d = own[metric]
                change = (f"{100 * d.value:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}")
                ahead = (str(d.a_ahead), str(d.b_ahead))
                table.add_row(metric_title(metric), escape(row), f"{d.a:.1%}", f"{d.b:.1%}", *change, *ahead)
    console.print(f"A: {a}\nB: {b}", markup=False, highlight=False)
    console.print(f"{paired.num_problems} problems in common, {paired.num_unpaired} unpaired ones dropped")
    console.print(table)
    if path:
        content = {"a": a, "b": b, "problems": paired.num_problems, "unpaired": paired.num_unpaired}
        rows = {row: {m: asdict(d) for m, d in own.items()} for row, own in paired.differences.items()}
        write_json(path, {**content, "differences": rows})


def _stored(name: str) -> tuple[dict[str, Any], list[Any]] | None:
    """What a folder written by ``edge-grpo eval`` holds; None if it is another one."""
    from edge_grpo.evaluation.store import read_answers  # noqa: PLC0415

    folder = Path(name).expanduser()
    return read_answers(folder) if (folder / "answers.jsonl").exists() else None


def _config_of(name: str, settings: list[str] | None) -> "Config":
    config = config_for(settings, name)
    if not Path(name).expanduser().exists() and name not in BUNDLES and "/" not in name:
        raise ConfigError(
            f"compare-models: no such folder: '{name}'; give a model or a folder written by edge-grpo eval"
        )
    return config
