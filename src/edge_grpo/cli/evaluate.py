"""``edge-grpo eval``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem
from edge_grpo.cli.completion import complete_settings
from edge_grpo.cli.launch import RERUN, Processes, launch, launched
from edge_grpo.cli.progress import waiting
from edge_grpo.cli.settings import config_for, model_first
from edge_grpo.runs.durable import write_whole

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config
    from edge_grpo.evaluation.suite import Benchmark

__all__ = ["DataDir", "Samples", "SuiteFile", "benchmarks_of", "evaluate", "metric_title", "write_json"]

_TROUBLE = ("unparsed", "timeout", "error")

SuiteFile = Annotated[
    str,
    typer.Option("--suite", "--data", metavar="SUITE.yaml|FILE.jsonl", help="Benchmarks or a data file."),
]
DataDir = Annotated[str, typer.Option(metavar="DIR", help="The folder of the suite's files.")]
Samples = Annotated[int | None, typer.Option(min=0, help="Sampled answers per problem, besides the greedy one.")]


def evaluate(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [CONFIG.yaml] [key=value ...]",
            help="A model (a folder or hub name), a YAML file, and settings that override it.",
            autocompletion=complete_settings,
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="DIR", help="The same as MODEL.")] = "",
    suite: SuiteFile = "",
    data_dir: DataDir = "",
    samples: Samples = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder of answers and results.json.")] = "",
    decontaminate: Annotated[
        str, typer.Option(metavar="TRAIN.jsonl", help="Also score without the problems that overlap with this data.")
    ] = "",
    processes: Processes = 0,
) -> None:
    """Evaluate a model: greedy pass@1 and, with --samples k, avg@k, pass@k and maj@k, all with intervals.

    Without --suite, on the held-out problems of the settings. Repeat the command to resume an interrupted evaluation. A
    run's `final` folder is evaluated with the settings of its run (template, token budget). Samples are drawn at
    eval.temperature, or at the rollout's if that is 0.
    """
    config = config_for(*model_first(settings, model))
    if launched(processes):
        raise typer.Exit(launch(processes, retry=RERUN))

    with waiting("loading the libraries"):  # model code, which a mistyped setting must not wait for
        from edge_grpo.base.world import join_world  # noqa: PLC0415
        from edge_grpo.cli.ask import ask  # noqa: PLC0415
        from edge_grpo.evaluation.answers import draws_of  # noqa: PLC0415
        from edge_grpo.evaluation.scores import scores_of  # noqa: PLC0415

    draws, console = draws_of(config, samples), Console()
    world = join_world(config.distributed.timeout_s)
    with world.unbroken():
        benchmarks = world.each(lambda: benchmarks_of(config, suite, data_dir))
        train = world.first(lambda: _training_problems(config, decontaminate) if decontaminate else {})
        found = ask(config, benchmarks, draws, out=out, kind="eval", console=console, world=world)
    if not world.is_first:
        return
    names = [each.name for each in found.asked]
    results: dict[str, Any] = {
        "model": found.model,
        "suite": suite or "held-out problems",
        "draws": asdict(found.draws),
        "template": config.data.template,
        **scores_of(found.answers, names),
    }
    overlapping = _overlapping(found.asked, train) if decontaminate else []
    if decontaminate:
        without = {(row["benchmark"], row["problem"]) for row in overlapping}
        results["contamination"] = {"train": decontaminate, "overlaps": overlapping}
        results["decontaminated"] = scores_of(found.answers, names, without=without)
    write_json(found.folder / "results.json", results)
    console.print(f"{found.model} on {suite or 'held-out problems'}", markup=False, highlight=False)
    _print_scores(console, results)
    _print_answers(console, results, found.draws.max_new_tokens)
    if decontaminate:
        _print_overlaps(console, overlapping, decontaminate)
    if overlapping:
        _print_scores(console, results["decontaminated"], title="without them")
    console.print(f"answers and results.json: {found.folder}", markup=False, highlight=False, soft_wrap=True)


def benchmarks_of(config: "Config", suite: str, data_dir: str) -> "Sequence[Benchmark]":
    """What the options name: a suite, a data file, or the held-out problems of the settings."""
    from edge_grpo.data.problems import load_train_eval  # noqa: PLC0415
    from edge_grpo.data.settings import sources  # noqa: PLC0415
    from edge_grpo.evaluation.answers import HELD_OUT  # noqa: PLC0415
    from edge_grpo.evaluation.suite import Benchmark, load_suite  # noqa: PLC0415

    if suite:
        return load_suite(suite, config.data, data_dir=data_dir)
    held_out = load_train_eval(config.data, num_eval=config.eval.size, seed=config.eval.seed)[1]
    where = ", ".join(sources(config.data.eval_path))
    return (Benchmark(HELD_OUT, where, held_out.problems, held_out.num_skipped, held_out.read),)


def _training_problems(config: "Config", path: str) -> Mapping[str, Problem]:
    from edge_grpo.data.problems import load_as_configured  # noqa: PLC0415

    return {problem.id: problem for problem in load_as_configured(path, config.data).problems}


def _overlapping(asked: Sequence[Any], train: Mapping[str, Problem]) -> list[dict[str, Any]]:
    """Problems that share text with the training data, as rows for JSON; indices count from 0.

    Problems are compared with those that have the same images, or none.
    """
    from edge_grpo.data.decontaminate import overlaps  # noqa: PLC0415

    trained, found = _by_images(list(train.values())), []
    for each in asked:
        rows = []
        for images, tests in _by_images([item.problem for item in each.problems]).items():
            others = trained.get(images, [])
            for one in overlaps([test.text for _, test in tests], [other.text for _, other in others]):
                (index, test), (train_index, other) = tests[one.test], others[one.train]
                row = {"benchmark": each.name, "problem": test.id, "index": index, "answers": test.answers}
                row |= {"share": one.share, "train": other.id, "train_index": train_index}
                rows.append(row | {"train_answers": other.answers})
        found += sorted(rows, key=lambda row: row["index"])
    return found


def _by_images(problems: Sequence[Problem]) -> dict[object, list[tuple[int, Problem]]]:
    """Problems with the same images together, each with its number among all."""
    found: dict[object, list[tuple[int, Problem]]] = {}
    for number, problem in enumerate(problems):
        found.setdefault(problem.question[1], []).append((number, problem))
    return found


def _print_scores(console: Console, results: Mapping[str, Any], title: str = "") -> None:
    rows = {**results["benchmarks"], **results.get("averages", {})}
    metrics = dict.fromkeys(metric for row in rows.values() for metric in row["scores"])
    passes = [metric for metric in metrics if metric.startswith("pass@") and "/" not in metric]
    shown = [metric for metric in metrics if metric != "pass@1/sampled" and metric not in passes[:-1]]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=max(map(len, rows)))
    for name in ("problems", *map(metric_title, shown)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = [_cell(row["scores"].get(metric)) for metric in shown]
        table.add_row(escape(name), str(row["problems"]), *cells)
    console.print(table)
    if any(metric.startswith("avg@") for metric in shown):
        console.print("pass@1: the greedy answer; avg@k: the sampled answers (their pass@1)", highlight=False)


def metric_title(metric: str) -> str:
    """A metric's column title."""
    return "pass@1" if metric == "pass@1/greedy" else metric


def _cell(score: Mapping[str, float] | None) -> str:
    return f"{score['value']:.1%}\n[dim]{100 * score['low']:.1f} - {100 * score['high']:.1f}%[/dim]" if score else "-"


def _print_answers(console: Console, results: Mapping[str, Any], budget: int) -> None:
    """Entropy, length, truncation and grading failures by benchmark and decoding."""
    rows = {**results["benchmarks"], "all": results.get("averages", {}).get("problem-weighted", {})}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=max(map(len, rows)))
    table.add_column("decoding")
    told = [row[decoding] for row in rows.values() for decoding in ("greedy", "sampled") if decoding in row]
    trouble = [verdict for verdict in _TROUBLE if any(own["verdicts"].get(verdict) for own in told)]
    for name in ("answers", "entropy, nats", "tokens", "truncated", *trouble):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        for decoding in ("greedy", "sampled"):
            if own := row.get(decoding):
                entropy = "-" if own["entropy"] is None else f"{own['entropy']:.3f}"
                figures = (entropy, f"{own['length']:.1f}", f"{own['truncated']:.1%}")
                counts = (str(own["verdicts"].get(verdict, 0)) for verdict in trouble)
                table.add_row(escape(name), decoding, str(own["answers"]), *figures, *counts)
    console.print(table)
    if any(own["truncated"] for own in told):
        console.print(f"truncated: ran out of {budget} tokens; eval.max_new_tokens raises that", highlight=False)


def _print_overlaps(console: Console, overlapping: Sequence[Mapping[str, Any]], train: str) -> None:
    console.print(
        f"{len(overlapping)} problems share over 30 % of their word 13-grams with a row of {train}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("problem", "answer", "shared", "training row", "its answer"):
        table.add_column(name, overflow="fold", no_wrap=name == "shared")
    for row in overlapping:
        cells = (row["problem"], row["answers"][0], f"{row['share']:.0%}", row["train"], row["train_answers"][0])
        table.add_row(*map(escape, cells))
    if overlapping:
        console.print(table)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from None
