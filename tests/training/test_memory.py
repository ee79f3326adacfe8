"""Memory that runs out ends a run with one line: the phase, the setting to lower, and how to resume."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, final

import pytest
import torch
from small_runs import SMALL, rows
from support import save_tiny
from torch import Tensor

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.records import Rollout
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.config.tree import Config, load_config
from edge_grpo.methods.base import Needs
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.models.loading import load_policy
from edge_grpo.models.stops import find_stops
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.loop import resume, train

ON_CPU = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
ON_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.00 GiB."
PLAIN = ["eval.every=0", "eval.at_start=false", "train.checkpoint_every=100", "method.correction.amount=none"]


FAILURES: list[RuntimeError | None] = []
"""What the next losses raise, the last one first."""


@final
@settings
class Large(EdgeGrpo):
    """EDGE-GRPO whose loss fails as ``FAILURES`` says."""

    kind: Literal["edge_grpo"] = "edge_grpo"

    @property
    def needs(self) -> Needs:
        return replace(EdgeGrpo.needs.__get__(self), every_row=True)

    def loss(self, x: LossInputs, totals: Totals) -> Tensor:
        if failure := FAILURES.pop():
            raise failure
        return EdgeGrpo.loss(self, x, totals)


class Full(DecodeEngine):
    """An engine whose GPU is full when it samples for the n-th time, counted from 1."""

    def __init__(self, config: Config, fails_at: int) -> None:
        self.own = load_policy(config.model)
        stop_ids = find_stops(self.own, config.data).token_ids
        super().__init__(self.own, stop_ids=stop_ids, pad_id=stop_ids[0])
        self.left = fails_at

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        self.left -= 1
        if not self.left:
            raise torch.OutOfMemoryError(ON_GPU)
        return super().sample(requests, sampling)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Config:
    return load_config(None, [f"model.path={model}", *SMALL, *PLAIN, f"run.dir={tmp_path / 'run'}"])


def test_while_sampling_the_steps_before_are_saved(config: Config) -> None:
    wanted = r"^out of memory while sampling \(asked for 2\.00 GiB\); resume with: edge-grpo train --resume \S+ "
    with pytest.raises(TrainingError, match=wanted + r"rollout\.max_rows=6$"):
        train(config, engine=Full(config, fails_at=3))
    folder = Path(config.run.dir)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000002"]
    assert [row["step"] for row in rows(folder)] == [1, 2]
    assert resume(folder, engine=Full(config, fails_at=99)).steps == 6


def test_before_the_first_update_of_a_step_the_steps_before_are_saved(config: Config) -> None:
    FAILURES[:] = [RuntimeError(ON_CPU), None, None]  # in the third step
    with pytest.raises(TrainingError, match=r"while updating the weights .*resume with: .*micro_batch_rows=6$"):
        train(config, method=Large())
    folder = Path(config.run.dir)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000002"]


def test_between_the_updates_of_a_step_nothing_is_saved(config: Config) -> None:
    two = replace(config, train=replace(config.train, mini_batches=2))
    FAILURES[:] = [RuntimeError(ON_CPU), *[None] * 3]  # in the second update of the second step
    with pytest.raises(TrainingError, match=r"resume with \(from step 0; 1 step will be redone\): edge-grpo train"):
        train(two, method=Large())
    assert not (Path(config.run.dir) / "checkpoints").exists()


def test_while_updating_the_step_is_redone(config: Config) -> None:
    each = replace(config, train=replace(config.train, checkpoint_every=1))
    FAILURES[:] = [RuntimeError(ON_CPU), None]
    with pytest.raises(TrainingError, match=r"while updating the weights .*resume with: .*train\.micro_batch_rows=6$"):
        train(each, method=Large())
    smallest = replace(each, train=replace(each.train, micro_batch_rows=1))
    FAILURES[:] = [RuntimeError(ON_CPU)]
    with pytest.raises(TrainingError, match=r"and train\.micro_batch_rows cannot be lowered; start a new run with"):
        resume(config.run.dir, smallest, method=Large())
    FAILURES[:] = [None] * 99
    assert resume(config.run.dir, each, method=Large()).steps == 6


def test_before_anything_is_written_the_run_is_started_again(config: Config) -> None:
    FAILURES[:] = [RuntimeError(ON_CPU)]
    with pytest.raises(TrainingError, match=r"updating the weights .*; start again with train\.micro_batch_rows=6$"):
        train(config, method=Large())
    assert not Path(config.run.dir).exists()


def test_other_errors_pass_unchanged(config: Config) -> None:
    FAILURES[:] = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(config, method=Large())
