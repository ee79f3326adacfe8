"""NaN and inf in weights, logits, scores, references, advantages and gradients, and a clock that goes backwards."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, rollouts, rows, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edge_grpo.base.errors import TrainingError
from edge_grpo.config.tree import load_config
from edge_grpo.models.policy import Policy, TokenScores
from edge_grpo.training.checkpoint import latest, verify
from edge_grpo.training.loop import resume, train

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
QUIET = ["eval.every=0", "eval.at_start=false", "eval.at_end=false", "train.checkpoint_every=1", "train.steps=3"]


@pytest.fixture
def config(tiny, tmp_path):
    def make(*overrides, name="run"):
        own = [text for text in SMALL if not text.startswith("method.")]
        return load_config(None, [f"model.path={tiny}", *own, *QUIET, *overrides, f"run.dir={tmp_path / name}"])

    return make


@pytest.fixture
def whole(config):
    """Makes an undisturbed run of the same settings."""
    return lambda *overrides: train(config(*overrides, name="whole")).folder


def broken_after(monkeypatch, owner, name, count, breaks):
    """Let a method of a class answer wrongly from its ``count``-th call on."""
    original, calls = getattr(owner, name), iter(range(1, 10**9))

    def call(self, *args, **more):
        value = original(self, *args, **more)
        return breaks(value) if next(calls) >= count else value

    monkeypatch.setattr(owner, name, call)


def poisoned(value):
    def breaks(scores):
        if isinstance(scores, TokenScores):
            return TokenScores(scores.logprobs + value * (scores.logprobs != 0), scores.entropy)
        return scores + value * (scores != 0)

    return breaks


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("what", ["score", "score_reference"])
def test_scores_that_are_not_finite_end_the_run_before_the_update(config, whole, monkeypatch, what, value):
    words = ["method=edge_grpo"] if what == "score" else ["method=grpo", "method.beta=0.1"]
    wanted = config(*words)
    with (
        monkeypatch.context() as patched,
        pytest.raises(TrainingError, match=r"log-probs are not finite .* of 12 rows"),
    ):
        broken_after(patched, Policy, what, 3 if what == "score" else 2, poisoned(value))
        train(wanted)
    verify(latest(Path(wanted.run.dir) / "checkpoints"))
    assert weights(resume(wanted.run.dir).folder) == weights(whole(*words))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_gradients_that_are_not_finite_are_skipped_counted_and_harm_nothing(config, monkeypatch, value):
    real, calls = torch.Tensor.backward, iter(range(1, 10**9))

    def backward(loss, *args, **more):
        real(loss * value if next(calls) == 2 else loss, *args, **more)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    folder = train(config()).folder
    assert [row["skipped_updates"] for row in rows(folder)] == [0.0, 1.0, 0.0]
    assert json.loads((latest(folder / "checkpoints") / "progress.json").read_text())["skipped_in_a_row"] == 0
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss, *_, **__: real(loss * value))
    wanted = config("train.max_skipped_updates=2", name="always")
    with pytest.raises(TrainingError, match="2 updates in a row"):
        train(wanted)
    monkeypatch.setattr(torch.Tensor, "backward", real)
    assert resume(wanted.run.dir).steps == 3


def test_weights_that_are_not_finite_are_never_saved(config, monkeypatch):
    """An update that overflows in the last step, which no sampling follows."""
    real, calls = torch.optim.AdamW.step, iter(range(1, 10**9))

    def step(optimizer, *args, **more):
        real(optimizer, *args, **more)
        if next(calls) == 3:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(INF)

    wanted = config()
    with (
        monkeypatch.context() as patched,
        pytest.raises(TrainingError, match="after step 3 the weights are not finite"),
    ):
        patched.setattr("edge_grpo.training.update.AdamW.step", step)
        train(wanted)
    run = Path(wanted.run.dir)
    assert latest(run / "checkpoints").name == "step_000002"
    assert not (run / "final").exists()
    assert resume(run).steps == 3


@pytest.mark.parametrize("value", [NAN, INF])
def test_logits_that_are_not_finite_end_the_run_and_the_last_checkpoint_goes_on(config, whole, monkeypatch, value):
    wanted = config()
    run = Path(wanted.run.dir)
    import edge_grpo.rollout.hf as decode

    real = decode.draw

    def draw(logits, noise, sampling):
        if (run / "checkpoints/step_000002").exists():
            logits = logits.index_fill(-1, torch.tensor(7), value)
        return real(logits, noise, sampling)

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match="log-probs are not finite"):
        patched.setattr(decode, "draw", draw)
        train(wanted)
    assert latest(run / "checkpoints").name == "step_000002"
    assert weights(resume(run).folder) == weights(whole())


def test_a_masked_vocabulary_is_no_fault(config, monkeypatch):
    """Single tokens may have a logit of -inf; the distribution is as good as any."""
    import edge_grpo.rollout.hf as decode

    real = decode.draw
    monkeypatch.setattr(decode, "draw", lambda z, u, s: real(z.index_fill(-1, torch.tensor(7), -INF), u, s))
    assert train(config()).steps == 3


@pytest.mark.parametrize("seconds", [3600.0, -86400.0])
def test_a_clock_that_jumps_changes_nothing(command, words, straight, tmp_path, seconds):
    """Every look at the clock is an hour earlier, or a day later, than the one before."""
    run = tmp_path / "run"
    answer = command(words(run), clock=seconds)
    assert answer["code"] == 0, answer["out"]
    assert weights(run) == weights(straight[0])
    assert rows(run) == rows(straight[0])
    assert rollouts(run) == rollouts(straight[0])
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [1, 2, 3, 4]
