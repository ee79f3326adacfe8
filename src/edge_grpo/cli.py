"""The command line; ``edge-grpo --help`` lists the commands."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from safetensors import SafetensorError

from edge_grpo.commands.grade import grade
from edge_grpo.errors import ConfigError, EdgeGrpoError
from edge_grpo.interrupt import Terminated, terminable

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL post-training of language models with advantage collapse cured and shown.",
)

app.command()(grade)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", help="A YAML file and settings on top of it."),
]


_UsageError: type[Exception] = cast(
    "type[Exception]", typer.BadParameter.__mro__[1]
)  # click's, which some versions of typer carry inside


def main() -> None:
    """Entry point: a user's mistake ends in one clear line on stderr and exit code 2, a signal in 128 + its number."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        with terminable():
            code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (EdgeGrpoError, SafetensorError, OSError) as error:  # OSError: a full disk, a folder without permission
        _fail(str(error))
    except _UsageError as error:
        _fail(f"{error} See `edge-grpo --help`.")
    except (KeyboardInterrupt, typer.Abort):
        _stopped(130)
    except Terminated as stop:
        _stopped(stop.number + 128)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
            raise
        _fail("the device is out of memory; lower train.micro_batch_rows, rollout.max_rows or rollout.max_new_tokens")
    sys.exit(code or 0)


def _fail(message: str) -> NoReturn:
    print(f"edge-grpo: {message}", file=sys.stderr)
    sys.exit(2)


def _stopped(code: int) -> NoReturn:
    print("edge-grpo: stopped", file=sys.stderr)
    sys.exit(code)


@app.command()
def train(
    settings: Settings = None,
    resume: Annotated[str, typer.Option(metavar="RUN_DIR", help="Go on with this run.")] = "",
) -> None:
    """Train a model. With no argument: the bundled model on built-in arithmetic with EDGE-GRPO.

    Ctrl-C or SIGTERM: a step that has not updated the weights is dropped, otherwise it is finished first; then a
    checkpoint is written. A second one leaves at once. Exit codes: 0 finished, 130 stopped by Ctrl-C, 143 by SIGTERM, 2
    for an error, which is told in one line. `--resume` goes on in each case.
    """
    from edge_grpo import train as loop  # noqa: PLC0415 - torch is slow to import and most mistakes show before
    from edge_grpo.config import load_config, parse_tree, split_words  # noqa: PLC0415
    from edge_grpo.display import LiveDisplay, PlainDisplay, decoding, summary  # noqa: PLC0415
    from edge_grpo.rundir import RunFolder  # noqa: PLC0415

    path, overrides = split_words(settings)
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
    rows = list(RunFolder(result.folder, tensorboard=False).rows())
    used = parse_tree(RunFolder.read_config(result.folder)[0])
    sampled, held_out = (decoding(part.temperature) for part in (used.rollout, used.eval))
    console.print(summary(rows, sampled=sampled, held_out=held_out))
    display.say(f"run folder: {result.folder}   model: {result.folder / 'final'}")


@app.command("show-config")
def show_config(settings: Settings = None) -> None:
    """Print all settings as they would be used, with their hash."""
    from edge_grpo.config import config_hash, load_config, located, split_words, to_tree, to_yaml  # noqa: PLC0415

    tree = located(to_tree(load_config(*split_words(settings))))
    print(f"# edge-grpo configuration {config_hash(tree)}\n{to_yaml(tree)}", end="")


@app.command()
def methods() -> None:
    """List the methods, each with its paper and what it is; docs/methods tells more."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from edge_grpo.methods import METHODS  # noqa: PLC0415

    table = Table("method=", "paper", "what it is", box=SIMPLE_HEAD, pad_edge=False)
    for kind, cls in METHODS.items():
        text = (cls.__doc__ or "").strip()
        table.add_row(kind, _paper(text), text.splitlines()[0].rstrip("."))
    Console().print(table)


def _paper(docstring: str) -> str:
    """The arXiv number with which the Source section begins, or the software that it names instead."""
    source = " ".join(docstring.partition("Source:")[2].split())
    first = re.split(r"[,;] ", source)[:3]  # authors, title, number
    found = re.search(r"arXiv:\d{4}\.\d{5}", " ".join(first))
    return found[0] if found else first[0]


@app.command("eval")
def evaluate(
    settings: Settings = None,
    model: Annotated[str, typer.Option(metavar="DIR", help="In place of model.path.")] = "",
    data: Annotated[str, typer.Option(metavar="FILE", help="In place of the held-out problems.")] = "",
    save: Annotated[str, typer.Option(metavar="FILE.jsonl", help="Write every answer with its verdict.")] = "",
) -> None:
    """Accuracy of a model on a data file: greedy, or sampled with eval.temperature=1 eval.samples=8.

    A run's ``final`` folder is evaluated with the settings of its run (template, budget), unless a file is given.
    """
    from dataclasses import replace  # noqa: PLC0415

    from edge_grpo.config import load_config, split_words  # noqa: PLC0415
    from edge_grpo.data.problems import load_problems, load_train_eval  # noqa: PLC0415
    from edge_grpo.display import decoding  # noqa: PLC0415
    from edge_grpo.evaluate import evaluate_model  # noqa: PLC0415
    from edge_grpo.models import load_policy  # noqa: PLC0415
    from edge_grpo.rewards.compose import Rewards  # noqa: PLC0415
    from edge_grpo.rundir import RunFolder  # noqa: PLC0415

    path, overrides = split_words(settings)
    folder = Path(model).expanduser()
    base = None
    if not path and folder.name == "final" and (folder.parent / "config.yaml").exists():
        base = RunFolder.read_config(folder.parent)[0] | {"method": "edge_grpo"}  # the method has no say here
    config = load_config(path, overrides, base=base)
    model = model or config.model.path
    if (folder / "config.yaml").exists() and (folder / "final").exists():
        raise ConfigError(f"--model: {model} is a run folder; give {folder / 'final'}")
    if data:
        loaded = load_problems(data, config.data.fields, split=config.data.eval_split, bad_rows=config.data.bad_rows)
    else:
        loaded = load_train_eval(config.data, num_eval=config.eval.size, seed=config.eval.seed)[1]
    policy = load_policy(replace(config.model, path=model))
    with Rewards(config.reward) as rewards:
        result = evaluate_model(
            policy, loaded.problems, rewards, data=config.data, rollout=config.rollout, settings=config.eval
        )
    low, high = result.interval
    drawn = decoding(config.eval.temperature)
    console = Console(soft_wrap=True)
    console.print(
        f"{model} on {data or 'held-out problems'}: accuracy {result.accuracy:.1%} "
        f"(95 % interval {low:.1%} - {high:.1%}) over {result.num_problems} problems, {drawn}",
        markup=False,
        highlight=False,
    )
    over_long = len(loaded.problems) - len(result.ids)
    if loaded.num_skipped or over_long:
        console.print(f"left out: {loaded.num_skipped} bad rows, {over_long} over-long prompts", highlight=False)
    if result.finished < 1:
        budget = config.eval.max_new_tokens or config.rollout.max_new_tokens
        console.print(
            f"{1 - result.finished:.1%} of the answers ran out of {budget} tokens; eval.max_new_tokens raises it",
            highlight=False,
        )
    verdicts = ", ".join(f"{count} {name}" for name, count in result.verdicts.items() if count)
    console.print(f"verdicts: {verdicts}; mean length {result.mean_length:.1f} tokens", highlight=False)
    for name, value in result.metrics().items():
        if name.startswith("eval/pass@"):
            console.print(f"{name.removeprefix('eval/')} {value:.1%}", highlight=False)
    if save:
        _save_answers(save, result, policy.tokenizer)


@app.command()
def lld(
    settings: Settings = None,
    problems: Annotated[int, typer.Option(min=1, help="How many questions to sample.")] = 100,
) -> None:
    """Measure lazy likelihood displacement: one update a question, from the same weights, by GRPO and by NTHR.

    Set train.learning_rate low (1e-5): the question is what the first small step does.
    """
    from edge_grpo.config import load_config, split_words  # noqa: PLC0415
    from edge_grpo.displacement import measure, report  # noqa: PLC0415
    from edge_grpo.display import PlainDisplay  # noqa: PLC0415

    config = load_config(*split_words(settings))
    for line in report(measure(config, num_problems=problems, display=PlainDisplay())):
        print(line)


@app.command()
def uplift(
    settings: Settings = None,
    before: Annotated[str, typer.Option(metavar="DIR", help="The starting model; model.path if not given.")] = "",
    after: Annotated[str, typer.Option(metavar="DIR", help="The trained model.")] = "",
    problems: Annotated[int, typer.Option(min=1, help="Held-out problems.")] = 50,
) -> None:
    """Compare two models on the first one's answers: which right answers rose, by how likely they were; and pass@N.

    Set rollout.group_size to the number of answers (32).
    """
    from edge_grpo.config import load_config, split_words  # noqa: PLC0415
    from edge_grpo.uplift import measure, report  # noqa: PLC0415

    if not after:
        raise ConfigError("--after: wanted the folder of the trained model")
    config = load_config(*split_words(settings))
    for line in report(measure(config, before=before or config.model.path, after=after, num_problems=problems)):
        print(line)


def _save_answers(path: str, result: Any, tokenizer: Any) -> None:
    try:
        with Path(path).expanduser().open("w", encoding="utf-8") as file:
            for name, answers in zip(result.ids, result.answers, strict=True):
                for rollout, grade in answers:
                    text = tokenizer.decode(list(rollout.completion_ids), skip_special_tokens=True)
                    row = {"problem": name, "completion": text, "verdict": str(grade.verdict), "reward": grade.reward}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"--save: {path} cannot be written ({error.strerror})") from error


@app.command("make-base")
def make_base(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder for the model.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
) -> None:
    """Make the small base model: supervised warm-up on arithmetic derivations (minutes on 2 cores)."""
    from edge_grpo.config import parse_settings  # noqa: PLC0415
    from edge_grpo.sft import BaseSettings  # noqa: PLC0415
    from edge_grpo.sft import make_base as make  # noqa: PLC0415

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step}/{base.steps}  loss {loss:.3f} nats a token", flush=True)

    base = parse_settings(BaseSettings, settings or [])
    print(f"wrote {make(out, base, on_step=report)}")


Words = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")]
Out = Annotated[str, typer.Option(metavar="FILE", help="The page to write.")]
RunsDir = Annotated[str, typer.Option("--dir", metavar="DIR", help="Where the runs are kept.")]
Seeds = Annotated[int, typer.Option(min=1, max=10, help="Seeds an arm.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")]


@app.command()
def compare(
    settings: Words = None,
    out: Out = "docs/results/edge_grpo.md",
    folder: RunsDir = "runs/compare",
    seeds: Seeds = 5,
    jobs: Jobs = 2,
) -> None:
    """Train EDGE-GRPO, its parts and controls on several seeds and write the results page; goes on where cut off."""
    from edge_grpo.compare.edge import compare as run  # noqa: PLC0415
    from edge_grpo.display import PlainDisplay  # noqa: PLC0415

    run(settings or [], out=out, folder=folder, seeds=seeds, jobs=jobs, display=PlainDisplay())


@app.command()
def compare_methods(
    settings: Words = None,
    out: Out = "docs/results/methods.md",
    folder: RunsDir = "runs/compare-methods",
    seeds: Seeds = 3,
    jobs: Jobs = 2,
) -> None:
    """Train every method on equal numbers of generated tokens and write the results page; goes on where cut off."""
    from edge_grpo.compare.methods import compare_methods as run  # noqa: PLC0415
    from edge_grpo.display import PlainDisplay  # noqa: PLC0415

    run(settings or [], out=out, folder=folder, seeds=seeds, jobs=jobs, display=PlainDisplay())
