"""Query a model and keep its answers in a folder: what eval, compare-models and screen share.

Several ranks share the problems. Each holds the whole model, which decoding needs anyway; rank 0 alone handles files.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_grpo.base.world import World
from edge_grpo.cli.progress import ProgressBar, waiting
from edge_grpo.config.tree import Config, config_hash
from edge_grpo.data.problems import told
from edge_grpo.data.turns import idle_arguments
from edge_grpo.evaluation.answers import Answer, Draws
from edge_grpo.evaluation.store import EncodedBenchmark, answer_all, encode, identity_of
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.models.loading import load_policy, pick_device
from edge_grpo.models.precision import fast_for_all, settled
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rewards.preflight import check_references
from edge_grpo.rollout.open import open_sampler
from edge_grpo.rollout.sampler import Sampler

__all__ = ["Answered", "ask"]


@dataclass(frozen=True)
class Answered:
    """A model's answers, what they depend on, the benchmarks, how they were drawn, and their folder."""

    model: str
    identity: dict[str, Any]
    answers: tuple[Answer, ...]
    asked: tuple[EncodedBenchmark, ...]
    draws: Draws
    folder: Path


def ask(
    config: Config,
    benchmarks: Sequence[Benchmark],
    draws: Draws,
    *,
    out: str,
    kind: str,
    console: Console,
    world: World,
) -> Answered:
    """Load the model and answer whatever the folder does not hold yet.

    Args:
        config: the settings; ``model.path`` names the model.
        benchmarks: the problems.
        draws: how many answers per problem, and how they are sampled.
        out: the folder of the answers; empty = one under ``runs/<kind>``, named after the model and a hash of all that
            the answers depend on, so that the same command resumes.
        kind: what the answers are for: ``eval`` or ``screen``.
        console: where messages go.
        world: the ranks that share the work; all of them get all answers.
    """
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        fast = fast_for_all(world, pick_device(config.model).type)
        with waiting(f"loading {config.model.path}"):
            policy = world.in_turn(lambda: load_policy(config.model, fast=fast))
        config = replace(config, model=settled(config.model, policy.computes_in))
        sampler = stack.enter_context(open_sampler(config, policy=policy, say=say, world=world))
        for line in idle_arguments(sampler.tokenizer, config.data):
            say(line)
        asked = world.each(lambda: tuple(encode(sampler, each, draws) for each in benchmarks))
        solutions = kind == "screen"
        for line in world.first(lambda: list(_about_references(sampler, benchmarks, asked, solutions=solutions))):
            say(line)
        model = Path(config.model.path)
        name = model.parent.name if model.name == "final" else model.name
        identity = world.first(lambda: identity_of(config, draws, asked))
        folder = Path(out).expanduser() if out else Path("runs") / kind / f"{name}-{config_hash(identity)}"
        for each in asked:
            if each.num_skipped or each.num_over_long or each.num_truncated:
                say(
                    f"{each.name}: skipped {each.num_skipped} bad rows and {each.num_over_long} over-long prompts; "
                    f"{each.num_truncated} prompts truncated"
                )
        with ProgressBar("answers") as shown:

            def progress(done: int, total: int) -> None:
                if done and not seen:
                    console.print(f"{done} of {total} answers already exist", highlight=False)
                seen.append(done)
                shown(done, total)

            seen: list[int] = []
            answers = answer_all(sampler, config, draws, asked, folder, identity=identity, progress=progress)
    return Answered(config.model.path, identity, tuple(answers), asked, draws, folder)


def _about_references(
    sampler: Sampler, benchmarks: Sequence[Benchmark], asked: Sequence[EncodedBenchmark], *, solutions: bool
) -> Iterator[str]:
    """How answers were read, and which references the reward does not accept; before anything is asked.

    Raises:
        DataError: a benchmark has no usable answer.
    """
    for benchmark, encoded in zip(benchmarks, asked, strict=True):
        if line := told(benchmark.read, solutions=solutions):
            yield f"{benchmark.name}: {line}"
        if isinstance(sampler.grader, Rewards):
            problems = [item.problem for item in encoded.problems]
            yield from check_references(
                sampler.grader, problems, name=benchmark.name, solutions=solutions, encode=sampler.encode_answer
            )
