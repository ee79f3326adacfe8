"""A run in memory: collecting and preparing change nothing, learning takes the step, and NaN ends it."""

from dataclasses import replace

import pytest
from support import save_tiny

from edge_grpo.base.errors import TrainingError
from edge_grpo.config.tree import load_config
from edge_grpo.training.session import open_session


@pytest.fixture
def make(tmp_path):
    model = save_tiny(tmp_path / "model")

    def build(*overrides):
        words = ["rollout.max_new_tokens=6", "rollout.prompts_per_step=2", "eval.size=2", "data.arithmetic.size=10"]
        config = load_config(None, [f"model.path={model}", *words, *overrides])
        with open_session(config) as session:
            yield session

    built = []

    def one(*overrides):
        built.append(build(*overrides))
        return next(built[-1])

    yield one
    for each in built:
        each.close()


def test_collecting_and_preparing_change_nothing(make):
    session = make()
    one, two = session.collect(), session.collect()
    session.prepare(one)
    assert one.groups == two.groups
    assert (session.step, session.cursor, session.tokens) == (0, 0, 0)
    assert not session.optimizer.state


def test_learning_takes_the_step_and_hands_the_weights_over(make, monkeypatch):
    session, versions = make(), []
    monkeypatch.setattr(session.sampler, "sync", lambda policy, version: versions.append((policy, version)))
    collected = session.collect()
    metrics = session.learn(collected, session.prepare(collected))
    assert (session.step, session.cursor) == (1, collected.num_prompts)
    assert session.tokens == metrics["tokens"][0] > 0
    assert versions == [(session.policy, 1)]
    session.take_over(session.state())
    assert versions[1:] == [(session.policy, 1)]


def test_a_step_without_groups_updates_nothing_and_is_counted(make):
    session = make()
    metrics = session.learn(session.collect(), None)
    assert metrics["empty_steps"] == (1.0, 1.0)
    assert session.step == 1
    assert not session.optimizer.state


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_advantage_ends_the_step_before_its_update(make, value):
    session = make()
    collected = session.collect()
    real = session.updater.signal

    class Broken:
        def __getattr__(self, name):
            return getattr(session.method, name)

        def signal(self, batch):
            signal = session.method.signal(batch)
            return replace(signal, advantages=signal.advantages + value * batch.mask)

    assert real(session.prepare(collected).batch).advantages.isfinite().all()
    session.updater.method = Broken()
    with pytest.raises(
        TrainingError, match=r"the method's advantages are not finite \(NaN or inf\) in \d+ of \d+ rows"
    ):
        session.prepare(collected)


def test_non_finite_weights_have_no_state_to_save(make):
    session = make()
    assert session.state().step == 0
    next(session.policy.trained())[1].data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="after step 0 the weights are not finite"):
        session.state()
