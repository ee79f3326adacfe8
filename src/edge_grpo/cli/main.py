"""The command line; ``edge-grpo --help`` lists the commands."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn, cast

import typer
from safetensors import SafetensorError

from edge_grpo import __version__
from edge_grpo.base.errors import ConfigError, EdgeGrpoError, RankLostError, TrainingError
from edge_grpo.base.interrupt import Terminated, ignore_sigterm, terminable
from edge_grpo.base.job import Meeting
from edge_grpo.base.memory import is_out_of_memory
from edge_grpo.base.quiet import silence_stdout
from edge_grpo.base.ranks import own_rank, quiet_ranks
from edge_grpo.base.text import visible
from edge_grpo.cli.compare_models import compare_models
from edge_grpo.cli.diagnose import diagnose
from edge_grpo.cli.diagnostics import lld, uplift
from edge_grpo.cli.doctor import doctor
from edge_grpo.cli.evaluate import evaluate
from edge_grpo.cli.examples import epilog
from edge_grpo.cli.export import export
from edge_grpo.cli.grade import grade
from edge_grpo.cli.launch import LOST, follow_launcher
from edge_grpo.cli.make_base import make_base
from edge_grpo.cli.plan import plan
from edge_grpo.cli.push import push
from edge_grpo.cli.reference import settings
from edge_grpo.cli.report import compare, report
from edge_grpo.cli.screen import screen
from edge_grpo.cli.serve import serve
from edge_grpo.cli.show import methods, show_config
from edge_grpo.cli.train import train
from edge_grpo.cli.tune import tune

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "plan": plan,
    "doctor": doctor,
    "report": report,
    "compare": compare,
    "diagnose": diagnose,
    "eval": evaluate,
    "export": export,
    "push": push,
    "serve": serve,
    "compare-models": compare_models,
    "screen": screen,
    "grade": grade,
    "tune": tune,
    "show-config": show_config,
    "settings": settings,
    "methods": methods,
    "lld": lld,
    "uplift": uplift,
    "make-base": make_base,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, epilog=epilog(_name))(_command)

_TOGETHER = ("train", "eval", "screen", "compare-models", "methods", "show-config")
"""The commands that several processes may run together."""

_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])  # click's; some versions of typer vendor click


def main() -> None:
    """Entry point: a user error prints one line to stderr and exits with 2; a signal exits with 128 + its number."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    atexit.register(gc.freeze)  # else the last collection walks all of torch, 0.3 s
    follow_launcher()
    try:
        with quiet_ranks(), terminable():
            _check_ranks(sys.argv[1:])
            code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
            sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the reader has what it wanted
        silence_stdout()
        _leave(1)
    except RankLostError as error:
        ignore_sigterm()
        if Meeting.of():  # the launcher knows which process ended
            sys.exit(LOST)
        _fail(error)
    except (EdgeGrpoError, SafetensorError, OSError) as error:  # OSError: a full disk, a folder without permission
        _fail(error)
    except _UsageError as error:
        message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "") or "edge-grpo"
        _fail(ConfigError(f"{message}{'' if message.endswith('?') else '.'} See `{command} --help`."))
    except (KeyboardInterrupt, typer.Abort) as stop:
        _stopped(stop, 130)
    except Terminated as stop:
        _stopped(stop, stop.number + 128)
    except Exception as error:
        if is_out_of_memory(error):
            lower = "lower train.micro_batch_rows, rollout.max_rows or rollout.max_new_tokens"
            told = TrainingError(f"out of memory; {lower}")
            told.shared = getattr(error, "shared", False)
            _fail(told)
        if not _speaks(error):
            sys.exit(1)
        raise
    _leave(code or 0)


def _check_ranks(words: Sequence[str]) -> None:
    """Refuse to do in several processes what they would do over each other's files."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command and command not in _TOGETHER and own_rank() is not None and os.environ["WORLD_SIZE"] != "1":
        raise ConfigError(f"{command} works in a single process; start it without torchrun")


def _fail(error: Exception) -> NoReturn:
    """End with one line, from one process of a job."""
    if _speaks(error):
        alone = own_rank() and not isinstance(error, RankLostError)
        print(f"edge-grpo: {f'rank {own_rank()}: ' if alone else ''}{visible(str(error))}", file=sys.stderr)
    sys.exit(2)


def _stopped(stop: BaseException, code: int) -> NoReturn:
    if _speaks(stop):
        print("edge-grpo: stopped", file=sys.stderr)
    _leave(code)


def _speaks(error: BaseException) -> bool:
    """Whether this process, of all that do the work together, is to report an error."""
    if own_rank() is None:
        return True
    from edge_grpo.base.world import reports  # noqa: PLC0415 - imports torch

    return reports(error)


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
