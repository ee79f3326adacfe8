"""Answers: draws depend on benchmark and problem, not on position or on the other problems."""

from collections.abc import Sequence

import pytest
from support import PROBLEM, tiny_policy, tiny_sampler

from edge_grpo.base.records import Prompt, Rollout
from edge_grpo.evaluation.answers import GREEDY, SAMPLED, Draws, answer
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

PROMPTS = [Prompt(PROBLEM.__class__(f"p{i}", "?", ("2",)), (10 + i, 11)) for i in range(4)]


class Remembering:
    """An engine that records its requests."""

    exact = True

    def __init__(self) -> None:
        self.engine = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
        self.seeds: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.sampling: list[Sampling] = []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        self.seeds |= {request.prompt_ids: request.seeds for request in requests}
        self.sampling.append(sampling)
        return self.engine.sample(requests, sampling)

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        raise AssertionError("an answer is never corrected")

    def sync(self, policy: Policy, version: int) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def engine() -> Remembering:
    return Remembering()


def seeds(engine: Remembering, benchmark: str, prompts: Sequence[Prompt], **own: int) -> dict[str, tuple[int, ...]]:
    """The seeds of each problem."""
    engine.seeds.clear()
    draws = Draws(**{"samples": 2, "max_new_tokens": 2, **own})
    answer(tiny_sampler(engine, lambda *_: True), benchmark, prompts, draws, SAMPLED)
    return {prompt.problem.id: engine.seeds[prompt.prompt_ids] for prompt in prompts}


def test_the_draws_of_a_problem_depend_on_seed_benchmark_and_id_alone(engine: Remembering) -> None:
    whole = seeds(engine, "one", PROMPTS)
    assert len({seed for own in whole.values() for seed in own}) == 8
    assert seeds(engine, "one", PROMPTS[::-1]) == whole
    assert seeds(engine, "one", PROMPTS[2:]) == {name: whole[name] for name in ("p2", "p3")}
    assert seeds(engine, "one", PROMPTS, samples=1) == {name: own[:1] for name, own in whole.items()}
    drawn = {seed for own in whole.values() for seed in own}
    assert not drawn & {seed for own in seeds(engine, "two", PROMPTS).values() for seed in own}
    assert not drawn & {seed for own in seeds(engine, "one", PROMPTS, seed=1).values() for seed in own}


def test_answers_are_drawn_as_their_decoding_says(engine: Remembering) -> None:
    draws = Draws(samples=2, temperature=0.6, top_p=0.9, top_k=5, max_new_tokens=3)
    sampler = tiny_sampler(engine, lambda *_: True)
    found = [each for decoding in draws.counts for each in answer(sampler, "one", PROMPTS[:2], draws, decoding)]
    assert engine.sampling == [Sampling(3, 0.0), Sampling(3, 0.6, 0.9, 5)]
    assert [(each.problem, each.decoding, each.number) for each in found] == [
        *(("p0", GREEDY, 0), ("p1", GREEDY, 0)),
        *(("p0", SAMPLED, 0), ("p0", SAMPLED, 1), ("p1", SAMPLED, 0), ("p1", SAMPLED, 1)),
    ]
