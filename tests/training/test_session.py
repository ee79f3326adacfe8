"""A run in memory: collecting and preparing change nothing, learning takes the step, and NaN ends it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, final

import pytest
from support import save_tiny

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.config.tree import load_config
from edge_grpo.methods.base import Method
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.open import open_sampler
from edge_grpo.training.session import Session
from edge_grpo.training.source import open_source

Make = Callable[..., Session]


class Synced(DecodeEngine):
    """An engine that records whose weights it was given."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, stop_ids=[2], pad_id=2)
        self.synced: list[tuple[Policy, int]] = []

    def sync(self, policy: Policy, version: int) -> None:
        self.synced.append((policy, version))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(model: Path) -> Iterator[Make]:
    """Makes sessions around a custom engine."""
    with ExitStack() as stack:

        def build(*overrides: str, method: Method | None = None) -> Session:
            words = ["rollout.max_new_tokens=6", "rollout.prompts_per_step=2", "eval.size=2", "data.arithmetic.size=10"]
            config = load_config(None, [f"model.path={model}", *words, *overrides])
            policy, own = load_policy(config.model), method or config.method
            sampler = stack.enter_context(open_sampler(config, policy=policy, engine=Synced(policy)))
            source, held_out = open_source(config, own, sampler, print)
            return Session(config, own, policy=policy, sampler=sampler, source=source, held_out=held_out)

        yield build


def synced(session: Session) -> list[tuple[Policy, int]]:
    """What the engine was given after the sampler was opened."""
    assert isinstance(session.sampler.engine, Synced)
    first, *others = session.sampler.engine.synced
    assert first == (session.policy, 0)
    return others


def test_collecting_and_preparing_change_nothing(make: Make) -> None:
    session = make()
    one, two = session.collect(), session.collect()
    session.prepare(one)
    assert one.groups == two.groups
    assert (session.step, session.cursor, session.tokens) == (0, 0, 0)
    assert not session.optimizer.state
    assert not synced(session)


def test_learning_takes_the_step_and_hands_the_weights_over(make: Make) -> None:
    session = make()
    collected = session.collect()
    metrics = session.learn(collected, session.prepare(collected))
    assert (session.step, session.cursor) == (1, collected.num_prompts)
    assert session.tokens == metrics["tokens"][0] > 0
    assert synced(session) == [(session.policy, 1)]


def test_the_engine_gets_the_restored_weights_before_anything_is_sampled(make: Make) -> None:
    session = make()
    session.take_over(replace(session.state(), step=3, cursor=6, tokens=99, skipped_in_a_row=1))
    assert (session.step, session.cursor, session.tokens, session.updater.skipped_in_a_row) == (3, 6, 99, 1)
    assert synced(session) == [(session.policy, 3)]


def test_scoring_updating_and_evaluating_are_timed(make: Make) -> None:
    session = make()
    collected = session.collect()
    lesson = session.prepare(collected)
    session.learn(collected, lesson)
    spent = session.watch.take("sample", "grade", "score", "update")
    assert all(seconds > 0 for seconds in spent.values())
    assert session.evaluate()["time/eval_s"] > 0
    assert session.watch.take("sample", "grade") == {"sample": 0.0, "grade": 0.0}, "they belong to the evaluation"


def test_a_step_without_groups_updates_nothing_and_is_counted(make: Make) -> None:
    session = make()
    metrics = session.learn(session.collect(), None)
    assert metrics["empty_steps"] == (1.0, 1.0)
    assert session.step == 1
    assert not session.optimizer.state


@final
@settings
class Broken(EdgeGrpo):
    """EDGE-GRPO whose advantages are not finite."""

    kind: Literal["edge_grpo"] = "edge_grpo"
    value: Literal["nan", "inf"]

    def signal(self, batch: Scored) -> Signal:
        signal = EdgeGrpo.signal(self, batch)
        return replace(signal, advantages=signal.advantages + float(self.value) * batch.mask)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_non_finite_advantage_ends_the_step_before_its_update(make: Make, value: Literal["nan", "inf"]) -> None:
    session = make(method=Broken(value=value))
    with pytest.raises(
        TrainingError, match=r"the method's advantages are not finite \(NaN or inf\) in \d+ of \d+ rows"
    ):
        session.prepare(session.collect())
    assert not session.optimizer.state


def test_non_finite_weights_have_no_state_to_save(make: Make) -> None:
    session = make()
    assert session.state().step == 0
    next(session.policy.trained())[1].data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="after step 0 the weights are not finite"):
        session.state()
