"""What the commands that ask a model share: its settings, its answers in a folder, and the progress shown meanwhile."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edge_grpo.answers import Answer, Asked, Asker, Draws, answer_all
from edge_grpo.config import Config, config_hash, load_config, split_words
from edge_grpo.errors import ConfigError
from edge_grpo.models import load_policy
from edge_grpo.rewards.compose import Rewards
from edge_grpo.rundir import RunFolder
from edge_grpo.suite import Benchmark

__all__ = ["Answered", "ask", "config_for", "draws_of"]

_EVERY_S = 10.0  # between two lines of progress where no terminal shows a bar


@dataclass(frozen=True)
class Answered:
    """All answers of a model, what was asked, how, and where it is kept."""

    model: str
    answers: tuple[Answer, ...]
    asked: tuple[Asked, ...]
    draws: Draws
    folder: Path


def config_for(words: Sequence[str] | None, model: str) -> Config:
    """The settings for asking ``model``: those typed, over those of its run if it is the ``final`` folder of one.

    Raises:
        ConfigError: a setting is wrong, or the model is a run folder instead of the model in it.
    """
    path, overrides = split_words(words)
    folder = Path(model).expanduser()
    if (folder / "config.yaml").exists() and (folder / "final").exists():
        raise ConfigError(f"--model: {model} is a run folder; give {folder / 'final'}")
    base = None
    if not path and folder.name == "final" and (folder.parent / "config.yaml").exists():
        base = RunFolder.read_config(folder.parent)[0] | {"method": "edge_grpo"}  # the method has no say here
    config = load_config(path, overrides, base=base)
    return replace(config, model=replace(config.model, path=model)) if model else config


def draws_of(config: Config, samples: int | None, *, greedy: bool = True) -> Draws:
    """How problems are answered: by the ``eval`` section, whose temperature 0 means the rollout's where samples differ.

    Args:
        config: the settings.
        samples: sampled answers a problem; None = ``eval.samples`` if that asks for several or a temperature is set.
        greedy: whether there is a greedy answer besides.
    """
    wanted = config.eval.samples if config.eval.samples > 1 or config.eval.temperature > 0 else 0
    return Draws(
        greedy=greedy,
        samples=wanted if samples is None else samples,
        temperature=config.eval.temperature or config.rollout.temperature,
        top_p=config.eval.top_p,
        max_new_tokens=config.eval.max_new_tokens or config.rollout.max_new_tokens,
        seed=config.eval.seed,
    )


def ask(
    config: Config, benchmarks: Sequence[Benchmark], draws: Draws, *, out: str, kind: str, console: Console
) -> Answered:
    """Load the model and let it answer whatever is not answered in the folder yet.

    Args:
        config: the settings, the model's path among them.
        benchmarks: what is asked.
        draws: how.
        out: the folder of the answers; empty = one under ``runs/<kind>`` that is named after the model and all that the
            answers depend on, so that the same command finds it again.
        kind: what the answers are for.
        console: shows progress.
    """
    policy = load_policy(config.model)
    with Rewards(config.reward) as rewards:
        asker = Asker(policy, config, draws, rewards)
        asked = tuple(asker.encode(each) for each in benchmarks)
        model = Path(config.model.path)
        name = model.parent.name if model.name == "final" else model.name
        folder = Path(out).expanduser() if out else Path("runs") / kind / f"{name}-{config_hash(asker.identity(asked))}"
        for each in asked:
            if each.num_skipped or each.num_over_long or each.num_truncated:
                console.print(
                    f"{each.name}: left out {each.num_skipped} bad rows, {each.num_over_long} over-long prompts; "
                    f"{each.num_truncated} prompts cut",
                    highlight=False,
                )
        with _Shown(console) as progress:
            answers = answer_all(asker, asked, folder, progress=progress)
    return Answered(config.model.path, tuple(answers), asked, draws, folder)


class _Shown:
    """A bar in a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("answers"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True)
        self._live: AbstractContextManager[Any] = self._bar if console.is_terminal else nullcontext()
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> "_Shown":
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        """There are so many answers."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
            if done:
                self.console.print(f"{done} of {total} answers are there already", highlight=False)
        self._bar.update(self._task, completed=done)
        if not self.console.is_terminal and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            self.console.print(f"{done}/{total} answers", highlight=False)
