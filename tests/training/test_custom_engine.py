"""A custom engine: it samples for the whole run, is told of every change of weights, and is asked for on resume."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_runs import SMALL, weights
from support import save_tiny

from edge_grpo.base.errors import CheckpointError
from edge_grpo.base.records import Rollout
from edge_grpo.config.tree import Config, load_config
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.models.stops import find_stops
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.loop import resume, train

STEPS = ["train.steps=2", "train.checkpoint_every=1", "eval.every=0", "eval.at_start=false", "eval.at_end=false"]


class Copying:
    """Samples from a copy of the weights, as a server would, taken at every ``sync``."""

    exact = True

    def __init__(self, config: Config) -> None:
        self.copy = load_policy(config.model)
        stop_ids = find_stops(self.copy, config.data).token_ids
        self.engine = DecodeEngine(self.copy, stop_ids=stop_ids, pad_id=stop_ids[0])
        self.versions: list[int] = []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        return self.engine.sample(requests, sampling)

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        return self.engine.resume(continuations, sampling)

    def sync(self, policy: Policy, version: int) -> None:
        self.copy.model.load_state_dict(policy.model.state_dict())
        self.versions.append(version)

    def close(self) -> None:
        raise AssertionError("the caller's engine stays open")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def test_a_run_syncs_a_custom_engine_and_resumes_with_it(model: Path, tmp_path: Path) -> None:
    def config(name: str, *words: str) -> Config:
        return load_config(None, [f"model.path={model}", *SMALL, *STEPS, f"run.dir={tmp_path / name}", *words])

    plain = train(config("plain"))
    engine = Copying(config("custom"))
    custom = train(config("custom"), engine=engine)
    assert engine.versions == [0, 1, 2]
    assert weights(custom.folder) == weights(plain.folder), "it samples what the policy's own engine samples"

    with pytest.raises(CheckpointError, match=r"samples with a custom engine \(.*Copying\); resume it with"):
        resume(custom.folder, config("custom", "train.steps=3"))
    fresh = Copying(config("custom"))
    resume(custom.folder, config("custom", "train.steps=3"), engine=fresh)
    assert fresh.versions == [0, 2, 3], "the restored weights before the new step"
    resume(plain.folder, config("plain", "train.steps=3"))
    assert weights(custom.folder) == weights(plain.folder)
