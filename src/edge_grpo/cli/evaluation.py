"""``edge-grpo eval`` and ``edge-grpo compare-models``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem
from edge_grpo.cli.progress import target
from edge_grpo.runs.durable import write_whole

__all__ = ["compare_models", "evaluate"]

_TROUBLE = ("unparsed", "timeout", "error")

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", help="A YAML file and settings on top of it."),
]
SuiteFile = Annotated[
    str,
    typer.Option(
        "--suite", "--data", metavar="SUITE.yaml|FILE.jsonl", help="Benchmarks or a data file; else held-out problems."
    ),
]
DataDir = Annotated[str, typer.Option(metavar="DIR", help="Where the files of the suite are.")]
Samples = Annotated[int | None, typer.Option(min=0, help="Sampled answers a problem, besides the greedy one.")]


def evaluate(
    settings: Settings = None,
    model: Annotated[str, typer.Option(metavar="DIR", help="In place of model.path.")] = "",
    suite: SuiteFile = "",
    data_dir: DataDir = "",
    samples: Samples = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where answers and results.json are kept.")] = "",
    decontaminate: Annotated[
        str, typer.Option(metavar="TRAIN.jsonl", help="Also score without problems that overlap with this data.")
    ] = "",
) -> None:
    """How much a model gets right: pass@1 greedy and, with --samples k, avg@k, pass@k and maj@k, with intervals.

    Cut off and started again, the same command goes on where it was. A run's `final` folder is evaluated with the
    settings of its run (template, budget). Sampled answers are drawn at eval.temperature, else the rollout's.
    """
    from edge_grpo.cli.asking import ask, config_for  # noqa: PLC0415
    from edge_grpo.evaluation.answers import draws_of  # noqa: PLC0415 - torch is slow to import
    from edge_grpo.evaluation.scores import scores_of  # noqa: PLC0415

    config = config_for(settings, model)
    benchmarks = _benchmarks(config, suite, data_dir)
    train = _training_problems(config, decontaminate) if decontaminate else {}
    console = Console()
    found = ask(config, benchmarks, draws_of(config, samples), out=out, kind="eval", console=console)
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
    _write_json(found.folder / "results.json", results)
    console.print(f"{found.model} on {suite or 'held-out problems'}", markup=False, highlight=False)
    _print_scores(console, results)
    _print_answers(console, results, found.draws.max_new_tokens)
    if decontaminate:
        _print_overlaps(console, overlapping, decontaminate)
    if overlapping:
        _print_scores(console, results["decontaminated"], title="without them")
    console.print(f"answers and results.json: {found.folder}", markup=False, highlight=False, soft_wrap=True)


def compare_models(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, or a folder that `edge-grpo eval` has written.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    settings: Settings = None,
    suite: SuiteFile = "",
    data_dir: DataDir = "",
    samples: Samples = None,
    out: Annotated[str, typer.Option(metavar="FILE.json", help="Write the differences.")] = "",
) -> None:
    """The paired difference B - A of two models on the same problems, with a bootstrap interval over problems.

    Models are evaluated first, as by `edge-grpo eval` with the same options; what is answered already is not asked
    again.
    """
    from edge_grpo.cli.asking import ask, config_for  # noqa: PLC0415
    from edge_grpo.evaluation.answers import draws_of  # noqa: PLC0415
    from edge_grpo.evaluation.paired import check_alike, compare  # noqa: PLC0415
    from edge_grpo.evaluation.store import read_answers  # noqa: PLC0415

    console, path, evaluated = Console(), target(out), []
    for name in (a, b):
        if (Path(name).expanduser() / "answers.jsonl").exists():
            evaluated.append(read_answers(Path(name).expanduser()))
            continue
        config = config_for(settings, name)
        if not Path(name).expanduser().exists() and name != "bundled" and "/" not in name:
            raise ConfigError(f"compare-models: no folder '{name}'; give a model or a folder of edge-grpo eval")
        console.print(f"evaluating {name}", markup=False, highlight=False)
        benchmarks = _benchmarks(config, suite, data_dir)
        found = ask(config, benchmarks, draws_of(config, samples), out="", kind="eval", console=console)
        evaluated.append((found.identity, list(found.answers)))
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
                table.add_row(_title(metric), escape(row), f"{d.a:.1%}", f"{d.b:.1%}", *change, *ahead)
    console.print(f"A: {a}\nB: {b}", markup=False, highlight=False)
    console.print(f"{paired.num_problems} problems in common, {paired.num_unpaired} of one alone left out")
    console.print(table)
    if path:
        content = {"a": a, "b": b, "problems": paired.num_problems, "unpaired": paired.num_unpaired}
        rows = {row: {m: asdict(d) for m, d in own.items()} for row, own in paired.differences.items()}
        _write_json(path, {**content, "differences": rows})


def _benchmarks(config: Any, suite: str, data_dir: str) -> Sequence[Any]:
    from edge_grpo.data.problems import load_train_eval  # noqa: PLC0415
    from edge_grpo.evaluation.answers import HELD_OUT  # noqa: PLC0415
    from edge_grpo.evaluation.suite import Benchmark, load_suite  # noqa: PLC0415

    if suite:
        return load_suite(suite, config.data, data_dir=data_dir)
    held_out = load_train_eval(config.data, num_eval=config.eval.size, seed=config.eval.seed)[1]
    return (Benchmark(HELD_OUT, config.data.eval_path, held_out.problems, held_out.num_skipped),)


def _training_problems(config: Any, path: str) -> Mapping[str, Problem]:
    from edge_grpo.data.problems import load_problems  # noqa: PLC0415

    loaded = load_problems(path, config.data.fields, split=config.data.split, bad_rows=config.data.bad_rows)
    return {problem.id: problem for problem in loaded.problems}


def _overlapping(asked: Sequence[Any], train: Mapping[str, Problem]) -> list[dict[str, Any]]:
    """Problems that share text with the training data, as rows for JSON; their places are counted from 0."""
    from edge_grpo.data.decontaminate import overlaps  # noqa: PLC0415

    trained, found = list(train.values()), []
    for each in asked:
        problems = [item.problem for item in each.problems]
        for one in overlaps([problem.prompt for problem in problems], [problem.prompt for problem in trained]):
            test, other = problems[one.test], trained[one.train]
            found.append(
                {
                    "benchmark": each.name,
                    "problem": test.id,
                    "index": one.test,
                    "answers": test.answers,
                    "share": one.share,
                    "train": other.id,
                    "train_index": one.train,
                    "train_answers": other.answers,
                }
            )
    return found


def _print_scores(console: Console, results: Mapping[str, Any], title: str = "") -> None:
    rows = {**results["benchmarks"], **results.get("averages", {})}
    metrics = dict.fromkeys(metric for row in rows.values() for metric in row["scores"])
    passes = [metric for metric in metrics if metric.startswith("pass@") and "/" not in metric]
    shown = [metric for metric in metrics if metric != "pass@1/sampled" and metric not in passes[:-1]]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=max(map(len, rows)))
    for name in ("problems", *map(_title, shown)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = [_cell(row["scores"].get(metric)) for metric in shown]
        table.add_row(escape(name), str(row["problems"]), *cells)
    console.print(table)
    if any(metric.startswith("avg@") for metric in shown):
        console.print("pass@1: of the greedy answer; avg@k: of the sampled ones (their pass@1)", highlight=False)


def _title(metric: str) -> str:
    return "pass@1" if metric == "pass@1/greedy" else metric


def _cell(score: Mapping[str, float] | None) -> str:
    return f"{score['value']:.1%}\n[dim]{100 * score['low']:.1f} - {100 * score['high']:.1f}[/dim]" if score else "-"


def _print_answers(console: Console, results: Mapping[str, Any], budget: int) -> None:
    """Entropy, length, truncation and what could not be graded, by benchmark and decoding."""
    rows = {**results["benchmarks"], "all": results.get("averages", {}).get("problem-weighted", {})}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=max(map(len, rows)))
    table.add_column("decoding")
    told = [row[decoding] for row in rows.values() for decoding in ("greedy", "sampled") if decoding in row]
    trouble = [verdict for verdict in _TROUBLE if any(own["verdicts"].get(verdict) for own in told)]
    for name in ("answers", "entropy", "tokens", "truncated", *trouble):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        for decoding in ("greedy", "sampled"):
            if own := row.get(decoding):
                figures = (f"{own['entropy']:.3f}", f"{own['length']:.1f}", f"{own['truncated']:.1%}")
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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from None
