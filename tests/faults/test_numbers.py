"""NaN and inf in weights, logits, scores, references and gradients, and a clock that goes backwards."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

import pytest
import torch
from faults.fixtures import Command, Straight, Words
from jaxtyping import Float
from small_runs import SMALL, rollouts, rows, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.config.tree import Config, load_config
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.models.dense import Dense
from edge_grpo.models.scoring import Scorer
from edge_grpo.training.checkpoint import latest, verify
from edge_grpo.training.loop import resume, train

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
QUIET = ["eval.every=0", "eval.at_start=false", "eval.at_end=false", "train.checkpoint_every=1", "train.steps=3"]


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Callable[..., Config]:
    def make(*overrides: str, name: str = "run") -> Config:
        own = [text for text in SMALL if not text.startswith("method.")]
        return load_config(None, [f"model.path={tiny}", *own, *QUIET, *overrides, f"run.dir={tmp_path / name}"])

    return make


@pytest.fixture
def whole(config: Callable[..., Config]) -> Callable[..., Path]:
    """Makes an uninterrupted run with the same settings."""
    return lambda *overrides: train(config(*overrides, name="whole")).folder


@contextmanager
def broken_model(when: Path, breaks: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Inside, ``breaks`` corrupts the output of every part of a model once a file exists."""

    def after(module: nn.Module, args: object, output: Any) -> None:
        if when.exists():
            breaks(module, output)

    handle = register_module_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def sampling(module: nn.Module) -> bool:
    return isinstance(module, Dense) and torch.is_inference_mode_enabled()


def scoring(module: nn.Module) -> bool:
    silent = not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    return isinstance(module, Scorer) and silent


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("what", ["policy", "reference"])
def test_non_finite_scores_end_the_run_before_the_update(
    config: Callable[..., Config], whole: Callable[..., Path], what: str, value: float
) -> None:
    words = ["method=edge_grpo"] if what == "policy" else ["method=grpo", "method.beta=0.1"]
    wanted = config(*words)
    run = Path(wanted.run.dir)

    def breaks(module: nn.Module, output: Any) -> None:
        frozen = not next(module.parameters(), torch.empty(0)).requires_grad
        if scoring(module) and frozen == (what == "reference"):
            output.logprobs.add_(value)

    with (
        broken_model(run / "checkpoints/step_000002", breaks),
        pytest.raises(TrainingError, match=rf"the {what}'s log-probs are not finite .* of 12 rows"),
    ):
        train(wanted)
    assert latest(run / "checkpoints") == run / "checkpoints/step_000002"
    verify(run / "checkpoints/step_000002")
    assert weights(resume(run).folder) == weights(whole(*words))


FACTORS: list[float] = []  # of the next losses


@final
@settings
class Fragile(EdgeGrpo):
    """EDGE-GRPO whose loss is multiplied by the next of ``FACTORS``."""

    kind: Literal["edge_grpo"] = "edge_grpo"

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        return EdgeGrpo.loss(self, x, totals) * (FACTORS.pop(0) if FACTORS else 1.0)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_non_finite_gradients_are_skipped_and_counted_and_harm_nothing(
    config: Callable[..., Config], value: float
) -> None:
    FACTORS[:] = [1.0, value]
    folder = train(config(), method=Fragile()).folder
    assert [row["skipped_updates"] for row in rows(folder)] == [0.0, 1.0, 0.0]
    newest = latest(folder / "checkpoints")
    assert newest is not None
    assert json.loads((newest / "progress.json").read_text())["skipped_in_a_row"] == 0
    FACTORS[:] = [value, value]
    wanted = config("train.max_skipped_updates=2", name="always")
    with pytest.raises(TrainingError, match="2 updates in a row"):
        train(wanted, method=Fragile())
    assert not FACTORS
    assert resume(wanted.run.dir, method=Fragile()).steps == 3


def test_non_finite_weights_are_never_saved(config: Callable[..., Config]) -> None:
    """An update that overflows in the last step, after which nothing is sampled."""
    steps: list[int] = []

    def overflow(optimizer: AdamW, args: object, more: object) -> None:
        steps.append(len(steps) + 1)
        if steps[-1] == 3:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(INF)

    wanted = config()
    handle = register_optimizer_step_post_hook(overflow)
    try:
        with pytest.raises(TrainingError, match="after step 3 the weights are not finite"):
            train(wanted)
    finally:
        handle.remove()
    run = Path(wanted.run.dir)
    assert latest(run / "checkpoints") == run / "checkpoints/step_000002"
    assert not (run / "final").exists()
    assert resume(run).steps == 3


@pytest.mark.parametrize("value", [NAN, INF])
def test_non_finite_logits_end_the_run_and_the_last_checkpoint_resumes(
    config: Callable[..., Config], whole: Callable[..., Path], value: float
) -> None:
    wanted = config()
    run = Path(wanted.run.dir)

    def breaks(module: nn.Module, output: Any) -> None:
        if sampling(module):
            output.index_fill_(-1, torch.tensor(7), value)

    with (
        broken_model(run / "checkpoints/step_000002", breaks),
        pytest.raises(TrainingError, match="log-probs are not finite"),
    ):
        train(wanted)
    assert latest(run / "checkpoints") == run / "checkpoints/step_000002"
    assert weights(resume(run).folder) == weights(whole())


def test_a_masked_vocabulary_is_not_an_error(config: Callable[..., Config]) -> None:
    """Individual tokens may have a logit of -inf; the distribution is still valid."""
    wanted = config()
    masked: list[int] = []

    def breaks(module: nn.Module, output: Any) -> None:
        if sampling(module):
            masked.append(7)
            output.index_fill_(-1, torch.tensor(7), -INF)

    with broken_model(Path(wanted.run.dir) / "metrics.jsonl", breaks):
        assert train(wanted).steps == 3
    assert masked


@pytest.mark.parametrize("seconds", [3600.0, -86400.0])
def test_a_clock_that_jumps_changes_nothing(
    command: Command, words: Words, straight: Straight, tmp_path: Path, seconds: float
) -> None:
    """Every reading of the clock is an hour earlier, or a day later, than the last."""
    run = tmp_path / "run"
    answer = command(words(run), clock=seconds)
    assert answer["code"] == 0, answer["out"]
    assert weights(run) == weights(straight[0])
    assert rows(run) == rows(straight[0])
    assert rollouts(run) == rollouts(straight[0])
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [1, 2, 3, 4]
