"""What a run's settings become in the engine and the sampler, and that both end with the block."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from families import family_policy
from support import PROBLEM, tiny_policy, tiny_sampler

from edge_grpo.base.errors import EngineError
from edge_grpo.base.records import Prompt, Rollout
from edge_grpo.config.tree import load_config
from edge_grpo.models.policy import Policy
from edge_grpo.rollout import open as opening
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.session import Session, open_session

WORDS = ["rollout.max_new_tokens=5", "rollout.prompts_per_step=2", "rollout.group_size=2", "reward.workers=1"]


class Recorder(DecodeEngine):
    """The built-in engine, which remembers what it was asked."""

    def __init__(self, policy: Policy, **settings: object) -> None:
        super().__init__(policy, stop_ids=(2,), pad_id=0)
        self.settings, self.asked, self.closed = settings, [], 0

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        self.asked.append(sampling)
        return super().sample(requests, sampling)

    def close(self) -> None:
        self.closed += 1


class Rough(Recorder):
    """An engine whose numbers are not the policy's."""

    exact = False


@contextmanager
def session(engine: type[Recorder], *words: str) -> Iterator[Session]:
    config = load_config(None, [*WORDS, "eval.every=0", "eval.at_start=false", "eval.at_end=false", *words])
    with open_session(config, engine=engine(tiny_policy())) as opened:
        yield opened


def test_training_draws_by_the_rollout_section() -> None:
    words = ("rollout.temperature=0.7", "rollout.top_p=0.9", "rollout.top_k=8", "method=grpo")
    with session(Recorder, *words) as opened:
        opened.collect()
        assert opened.sampler.engine.asked == [Sampling(5, 0.7, 0.9, 8)]


def test_a_step_is_scored_first_if_it_updates_twice_with_numbers_that_are_not_the_policys() -> None:
    passes = []
    for engine, updates in ((Recorder, 1), (Rough, 1), (Recorder, 2), (Rough, 2)):
        with session(engine, "method.correction.amount=none", f"train.mini_batches={updates}") as opened:
            told = partial(passes.append, (engine, updates))
            handle = opened.policy.scorer.register_forward_hook(lambda *_, told=told: told())
            opened.prepare(opened.collect())
            handle.remove()
    assert set(passes) == {(Rough, 2)}


def test_settings_reach_the_engine_and_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(policy: Policy, **settings: object) -> Recorder:
        made.append(Recorder(policy, **settings))
        return made[-1]

    monkeypatch.setattr(opening, "DecodeEngine", make)
    config = load_config(None, [*WORDS, "rollout.max_rows=7", "rollout.stop=['=']"])
    policy = tiny_policy()
    with opening.open_sampler(config, policy=policy) as sampler:
        (engine,) = made
        assert engine.settings["max_rows"] == 7
        assert engine.settings["stop_texts"] == ("=",)
        assert sampler.stop_ids == engine.settings["stop_ids"]
        assert engine.closed == 0
    assert engine.closed == 1


@pytest.mark.parametrize(
    ("family", "lines"),
    [
        ("qwen3_5_text", []),
        ("bloom", ["model.attention: BloomForCausalLM has no fused attention; using eager"]),
        ("minimax", ["MiniMaxForCausalLM: its cache cannot serve rows .* slowly"]),
    ],
)
def test_what_a_family_does_not_support_is_said(family: str, lines: list[str]) -> None:
    said: list[str] = []
    with opening.open_sampler(load_config(None, WORDS), policy=family_policy(family), say=said.append):
        pass
    assert len(said) == len(lines)
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(lines, said, strict=True))


class Short(Recorder):
    """An engine that loses a rollout."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        return [rollouts[1:] for rollouts in super().sample(requests, sampling)]

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        return []


def test_an_engine_that_loses_rollouts_is_named() -> None:
    sampler = tiny_sampler(Short(tiny_policy()), lambda *_: True)
    with pytest.raises(
        EngineError, match=r"Short\.sample returned \[1\] rollouts, wanted \[2\]: one tuple per request"
    ):
        sampler.sample([Prompt(PROBLEM, (5, 6))], [(1, 2)], Sampling(3))
    rollout = Recorder(tiny_policy()).sample([Request((5, 6), (1,))], Sampling(2))[0][0]
    with pytest.raises(EngineError, match=r"Short\.resume returned 0 rollouts, wanted 1"):
        sampler.resume([Continuation(rollout, (7,), 4, 1)], Sampling(3))
