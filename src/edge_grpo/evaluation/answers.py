"""A model's answers to problems: how they are drawn, from which seeds, and what is stored of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge_grpo.base.records import Problem, Prompt, Row, Verdict
from edge_grpo.base.rng import derive_seed
from edge_grpo.base.settings import settings
from edge_grpo.config.tree import Config
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.sampler import Sampler

__all__ = [
    "GREEDY",
    "HELD_OUT",
    "SAMPLED",
    "Answer",
    "Draws",
    "answer",
    "draws_of",
    "heldout_draws",
    "sample_rows",
    "training_draws",
]

GREEDY: Final = "greedy"
SAMPLED: Final = "sampled"
HELD_OUT: Final = "held-out"
"""Benchmark name of a run's held-out problems, in training and in ``edge-grpo eval`` alike."""


@settings
class Draws:
    """How problems are answered: once greedily if ``greedy``, and ``samples`` times at a temperature."""

    greedy: bool = True
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 96
    seed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Answers per problem, by decoding."""
        counts = {GREEDY: int(self.greedy), SAMPLED: self.samples}
        return {decoding: count for decoding, count in counts.items() if count}

    def sampling(self, decoding: str) -> Sampling:
        """How the engine draws for a decoding."""
        if decoding == GREEDY:
            return Sampling(self.max_new_tokens, 0.0)
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.top_k)


def draws_of(config: Config, samples: int | None = None) -> Draws:
    """How ``edge-grpo eval`` answers: greedily, and as set in ``eval``, where temperature 0 means the rollout's.

    Args:
        config: the settings.
        samples: sampled answers per problem; None = ``eval.samples`` if that is above 1 or a temperature is set.
    """
    wanted = config.eval.samples if config.eval.samples > 1 or config.eval.temperature > 0 else 0
    return Draws(
        samples=wanted if samples is None else samples,
        temperature=config.eval.temperature or config.rollout.temperature,
        top_p=config.eval.top_p,
        max_new_tokens=config.eval.max_new_tokens or config.rollout.max_new_tokens,
        seed=config.eval.seed,
    )


def heldout_draws(config: Config) -> Draws:
    """The same for held-out problems during training, except that a temperature above 0 rules out greedy answers."""
    base = draws_of(config)
    return Draws(
        greedy=config.eval.temperature == 0,
        samples=base.samples,
        temperature=base.temperature,
        top_p=base.top_p,
        max_new_tokens=base.max_new_tokens,
        seed=base.seed,
    )


def training_draws(config: Config, samples: int) -> Draws:
    """``samples`` answers per problem, drawn as in training (the ``rollout`` section)."""
    rollout = config.rollout
    return Draws(
        greedy=False,
        samples=samples,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
        seed=config.train.seed,
    )


@dataclass(frozen=True)
class Answer:
    """One answer to one problem, as a line of ``answers.jsonl``.

    ``prompt`` is the question, without a template. ``decoding`` is ``greedy`` or ``sampled``; ``number`` counts sampled
    answers from 0. ``completion`` is the text and ``answer`` what the grader reads as its answer, None if nothing.
    ``tokens`` includes the stop token; ``entropy`` is the mean over tokens, in nats, None if the engine records none.
    ``images`` are the digests of the question's.
    """

    benchmark: str
    problem: str
    prompt: str
    decoding: str
    number: int
    completion: str
    answer: str | None
    gold: tuple[str, ...]
    verdict: str
    reward: float
    tokens: int
    finished: bool
    entropy: float | None
    images: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        """Whether it is right."""
        return self.verdict == Verdict.CORRECT

    @property
    def scorable(self) -> bool:
        """False if the grader failed; such an answer is excluded everywhere."""
        return self.verdict != Verdict.ERROR


def sample_rows(
    sampler: Sampler, benchmark: str, prompts: Sequence[Prompt], draws: Draws, decoding: str
) -> list[tuple[Row, ...]]:
    r"""Graded completions of one decoding, one tuple per problem: the only seed rule of evaluation.

    A problem's draws depend only on the seed, its benchmark and its id, not on the other problems:

    .. math:: \text{seed}_{ij} = \operatorname{derive}(\text{seed}, \text{benchmark}, \text{id}_i, j)

    Args:
        sampler: the model and the grader.
        benchmark: name of the benchmark that the problems belong to.
        prompts: the problems.
        draws: how they are answered.
        decoding: ``greedy`` or ``sampled``.
    """
    count = draws.counts[decoding]
    seeds = [
        tuple(derive_seed(draws.seed, "answers", benchmark, prompt.problem.id, j) for j in range(count))
        for prompt in prompts
    ]
    return sampler.sample(prompts, seeds, draws.sampling(decoding))


def answer(sampler: Sampler, benchmark: str, prompts: Sequence[Prompt], draws: Draws, decoding: str) -> list[Answer]:
    """All answers of one decoding, problem by problem; arguments as in :func:`sample_rows`."""
    groups = sample_rows(sampler, benchmark, prompts, draws, decoding)
    texts = iter(sampler.texts([row.rollout for rows in groups for row in rows]))
    return [
        _answer(benchmark, decoding, number, prompt.problem, row, text, sampler.grader.answer(text))
        for prompt, rows in zip(prompts, groups, strict=True)
        for number, (row, text) in enumerate(zip(rows, texts, strict=False))
    ]


def _answer(
    benchmark: str, decoding: str, number: int, problem: Problem, row: Row, text: str, read: str | None
) -> Answer:
    entropies = [value for span in row.rollout.spans for value in span.entropies]
    return Answer(
        benchmark=benchmark,
        problem=problem.id,
        prompt=problem.prompt,
        decoding=decoding,
        number=number,
        completion=text,
        answer=read,
        gold=problem.answers,
        verdict=str(row.grade.verdict),
        reward=row.grade.reward,
        tokens=len(row.rollout.completion_ids),
        finished=row.rollout.finished,
        entropy=sum(entropies) / len(entropies) if entropies else None,
        images=problem.question[1],
    )
