"""The command line; ``edge-grpo --help`` lists the commands."""

import atexit
import gc
import os
import signal
import sys
from typing import Annotated, NoReturn, cast

import typer
from safetensors import SafetensorError

from edge_grpo import __version__
from edge_grpo.base.errors import ConfigError, EdgeGrpoError, RankLostError, TrainingError
from edge_grpo.base.interrupt import Terminated, terminable
from edge_grpo.base.memory import is_out_of_memory
from edge_grpo.base.quiet import silence_stdout
from edge_grpo.base.ranks import RENDEZVOUS, is_first_rank, own_rank, quiet_ranks
from edge_grpo.cli.compare_models import compare_models
from edge_grpo.cli.diagnostics import lld, uplift
from edge_grpo.cli.evaluate import evaluate
from edge_grpo.cli.export import export
from edge_grpo.cli.grade import grade
from edge_grpo.cli.launch import LOST, follow_launcher
from edge_grpo.cli.make_base import make_base
from edge_grpo.cli.screen import screen
from edge_grpo.cli.serve import serve
from edge_grpo.cli.show import methods, show_config
from edge_grpo.cli.train import train
from edge_grpo.cli.tune import tune

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.command()(train)
app.command("eval")(evaluate)
app.command()(export)
app.command()(serve)
app.command()(compare_models)
app.command()(screen)
app.command()(grade)
app.command()(tune)
app.command()(show_config)
app.command()(methods)
app.command()(lld)
app.command()(uplift)
app.command()(make_base)

_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])  # click's; some versions of typer vendor click


def main() -> None:
    """Entry point: a user error prints one line to stderr and exits with 2; a signal exits with 128 + its number."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    atexit.register(gc.freeze)  # else the last collection walks all of torch, 0.3 s
    follow_launcher()
    try:
        with quiet_ranks(), terminable():
            code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
            sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the reader has what it wanted
        silence_stdout()
        _leave(1)
    except RankLostError as error:
        if RENDEZVOUS in os.environ:  # whoever started the processes knows which one ended
            sys.exit(LOST)
        _fail(error)
    except (EdgeGrpoError, SafetensorError, OSError) as error:  # OSError: a full disk, a folder without permission
        _fail(error)
    except _UsageError as error:
        message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "") or "edge-grpo"
        _fail(ConfigError(f"{message}{'' if message.endswith('?') else '.'} See `{command} --help`."))
    except (KeyboardInterrupt, typer.Abort):
        _stopped(130)
    except Terminated as stop:
        _stopped(stop.number + 128)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        lower = "lower train.micro_batch_rows, rollout.max_rows or rollout.max_new_tokens"
        _fail(TrainingError(f"out of memory; {lower}"))
    _leave(code or 0)


def _fail(error: Exception) -> NoReturn:
    """End with one line, from one process of a job."""
    rank = own_rank()
    if rank is None:
        print(f"edge-grpo: {error}", file=sys.stderr)
        sys.exit(2)
    from edge_grpo.base.world import reports  # noqa: PLC0415 - imports torch

    if reports(error):
        shared = getattr(error, "shared", False) or rank == 0
        print(f"edge-grpo: {'' if shared else f'rank {rank}: '}{error}", file=sys.stderr)
    sys.exit(2)


def _stopped(code: int) -> NoReturn:
    if is_first_rank():
        print("edge-grpo: stopped", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    if code > 128:  # impatient signals during interpreter shutdown are not worth a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"edge-grpo {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """RL post-training of language models that measures and fixes advantage collapse."""
