"""Adapters on a server: merged into its weights, or loaded beside them."""

from pathlib import Path

import pytest
from real_vllm.comparison import largest_gap, perturb
from real_vllm.servers import Make, Server
from small_runs import rows

from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import load_policy
from edge_grpo.rollout.engine import ServerError
from edge_grpo.training.loop import train


@pytest.mark.parametrize("lora", ["merged", "adapter"])
def test_adapters_count_after_every_sync(lora_server: Server, make: Make, lora: str) -> None:
    policy = load_policy(ModelSettings(path="bundled", device="cpu", lora=LoraSettings(rank=4)))
    engine = make(lora_server, policy, lora=lora)
    engine.sync(policy, 0)
    for step in (1, 2):
        perturb(policy, seed=step, scale=0.05)
        engine.sync(policy, step)
        assert largest_gap(engine, policy) < 1e-4


def test_a_restart_loses_the_adapter_and_it_is_loaded_again(lora_server: Server, make: Make) -> None:
    policy = load_policy(ModelSettings(path="bundled", device="cpu", lora=LoraSettings(rank=4)))
    engine = make(lora_server, policy, lora="adapter")
    engine.sync(policy, 0)
    perturb(policy, seed=1, scale=0.05)
    engine.sync(policy, 1)
    lora_server.stop()
    lora_server.start()
    assert largest_gap(engine, policy) < 1e-4


def test_a_rank_that_the_server_does_not_take_is_one_line(lora_server: Server, make: Make) -> None:
    policy = load_policy(ModelSettings(path="bundled", device="cpu", lora=LoraSettings(rank=16)))
    with pytest.raises(ServerError, match="rank"):
        make(lora_server, policy, lora="adapter").sync(policy, 0)


@pytest.mark.parametrize("lora", ["merged", "adapter"])
def test_a_run_trains_adapters_on_it(lora_server: Server, lora: str, tmp_path: Path) -> None:
    words = [
        "model.lora.rank=4",
        "train.steps=2",
        "eval.every=0",
        "eval.at_start=false",
        "eval.at_end=false",
        "data.arithmetic.size=40",
        "rollout.prompts_per_step=4",
        "rollout.engine.kind=vllm",
        f"rollout.engine.urls=[{lora_server.url}]",
        f"rollout.engine.lora={lora}",
        f"run.dir={tmp_path / 'run'}",
    ]
    assert train(load_config(None, words)).steps == 2
    assert all(row["sampler/gap_max"] < 1e-3 for row in rows(tmp_path / "run"))
