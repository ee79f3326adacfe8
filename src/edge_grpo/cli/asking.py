"""What the commands that ask a model share: its settings, and its answers in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.progress import Shown
from edge_grpo.config.tree import Config, config_hash, load_config, split_words
from edge_grpo.evaluation.answers import Answer, Draws
from edge_grpo.evaluation.store import EncodedBenchmark, answer_all, encode, identity_of
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.rollout.open import open_sampler
from edge_grpo.runs.folder import RunFolder

__all__ = ["Answered", "ask", "config_for"]


@dataclass(frozen=True)
class Answered:
    """All answers of a model, what they depend on, what was asked, how, and where it is kept."""

    model: str
    identity: dict[str, Any]
    answers: tuple[Answer, ...]
    asked: tuple[EncodedBenchmark, ...]
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
    with open_sampler(config) as sampler:
        asked = tuple(encode(sampler, each, draws) for each in benchmarks)
        model = Path(config.model.path)
        name = model.parent.name if model.name == "final" else model.name
        identity = identity_of(config, draws, asked)
        folder = Path(out).expanduser() if out else Path("runs") / kind / f"{name}-{config_hash(identity)}"
        for each in asked:
            if each.num_skipped or each.num_over_long or each.num_truncated:
                console.print(
                    f"{each.name}: left out {each.num_skipped} bad rows, {each.num_over_long} over-long prompts; "
                    f"{each.num_truncated} prompts cut",
                    markup=False,
                    highlight=False,
                )
        with Shown("answers") as shown:

            def progress(done: int, total: int) -> None:
                if done and not seen:
                    console.print(f"{done} of {total} answers are there already", highlight=False)
                seen.append(done)
                shown(done, total)

            seen: list[int] = []
            answers = answer_all(sampler, config, draws, asked, folder, identity=identity, progress=progress)
    return Answered(config.model.path, identity, tuple(answers), asked, draws, folder)
