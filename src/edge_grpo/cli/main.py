"""The command line; ``edge-grpo --help`` lists the commands."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn, cast

import typer
from rich.console import Console
from safetensors import SafetensorError

from edge_grpo.base.errors import ConfigError, EdgeGrpoError
from edge_grpo.base.interrupt import Terminated, terminable
from edge_grpo.cli.evaluation import Settings, compare_models, evaluate
from edge_grpo.cli.grade import grade
from edge_grpo.cli.screening import screen
from edge_grpo.cli.tuning import tune

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL post-training of language models with advantage collapse cured and shown.",
)

app.command("eval")(evaluate)
app.command()(compare_models)
app.command()(screen)
app.command()(grade)
app.command()(tune)


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
        message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        _fail(f"{message}. See `edge-grpo --help`.")
    except (KeyboardInterrupt, typer.Abort):
        _stopped(130)
    except Terminated as stop:
        _stopped(stop.number + 128)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
            raise
        _fail("the device is out of memory; lower train.micro_batch_rows, rollout.max_rows or rollout.max_new_tokens")
    _leave(code or 0)


def _fail(message: str) -> NoReturn:
    print(f"edge-grpo: {message}", file=sys.stderr)
    sys.exit(2)


def _stopped(code: int) -> NoReturn:
    print("edge-grpo: stopped", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    if code > 128:  # impatient signals while Python ends itself are not worth a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
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
    from edge_grpo.config.tree import load_config, parse_tree, split_words  # noqa: PLC0415
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415
    from edge_grpo.trackers.console import LiveDisplay, PlainDisplay, decoding, summary  # noqa: PLC0415
    from edge_grpo.training import loop  # noqa: PLC0415 - torch is slow to import and most mistakes show before

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
    rows = list(RunFolder(result.folder).rows())
    used = parse_tree(RunFolder.read_config(result.folder)[0])
    sampled, held_out = (decoding(part.temperature) for part in (used.rollout, used.eval))
    console.print(summary(rows, sampled=sampled, held_out=held_out))
    display.say(f"run folder: {result.folder}   model: {result.folder / 'final'}")


@app.command("show-config")
def show_config(settings: Settings = None) -> None:
    """Print all settings as they would be used, with their hash."""
    from edge_grpo.config.tree import config_hash, load_config, located, split_words, to_tree, to_yaml  # noqa: PLC0415

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


@app.command()
def lld(
    settings: Settings = None,
    problems: Annotated[int, typer.Option(min=1, help="How many questions to sample.")] = 100,
) -> None:
    """Measure lazy likelihood displacement: one update a question, from the same weights, by GRPO and by NTHR.

    Set train.learning_rate low (1e-5): the question is what the first small step does.
    """
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415
    from edge_grpo.diagnostics.displacement import measure, report  # noqa: PLC0415
    from edge_grpo.trackers.console import PlainDisplay  # noqa: PLC0415

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
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415
    from edge_grpo.diagnostics.uplift import measure, report  # noqa: PLC0415

    if not after:
        raise ConfigError("--after: wanted the folder of the trained model")
    config = load_config(*split_words(settings))
    for line in report(measure(config, before=before or config.model.path, after=after, num_problems=problems)):
        print(line)


@app.command("make-base")
def make_base(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder for the model.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
) -> None:
    """Make the small base model: supervised warm-up on arithmetic derivations (minutes on 2 cores)."""
    from edge_grpo.bundled.make import BaseSettings  # noqa: PLC0415
    from edge_grpo.bundled.make import make_base as make  # noqa: PLC0415
    from edge_grpo.config.tree import parse_settings  # noqa: PLC0415

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
    from edge_grpo.trackers.console import PlainDisplay  # noqa: PLC0415

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
    from edge_grpo.trackers.console import PlainDisplay  # noqa: PLC0415

    run(settings or [], out=out, folder=folder, seeds=seeds, jobs=jobs, display=PlainDisplay())
