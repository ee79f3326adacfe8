"""Where weights cannot be broadcast from GPU to GPU, one line says so; the transfer itself needs GPUs."""

from dataclasses import replace

import pytest
import torch
from rollout.vllm.rows import Make
from rollout.vllm.server import State

from edge_grpo.rollout.engine import ServerError
from edge_grpo.rollout.vllm.client import Facts
from edge_grpo.rollout.vllm.nccl import Broadcast, check

FACTS = Facts("0.32.1", "m", "policy", "bfloat16", 512, 60, "processed_logprobs", False, 0, 2, "cuda")
GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "facts", "message"),
    [
        (torch.device("cpu"), FACTS, "the weights to hand over are on the cpu, not on a GPU"),
        (GPU, replace(FACTS, device="cpu"), "server A runs on the cpu, not on GPUs"),
        (GPU, replace(FACTS, vllm="0.33.0"), r"written for vLLM 0\.32\.x, and server A runs 0\.33\.0"),
        (GPU, FACTS, r"needs vLLM 0\.32\.x in this environment too, found none"),
    ],
)
def test_where_it_cannot_run(device: torch.device, facts: Facts, message: str) -> None:
    with pytest.raises(ServerError, match=rf"^rollout.engine.transport=nccl: {message}; set .*transport=folder$"):
        check(device, facts, "server A")


def test_an_engine_says_so_before_anything_is_handed_over(make: Make, server: tuple[str, State]) -> None:
    with pytest.raises(ServerError, match="the weights to hand over are on the cpu"):
        make(transport="nccl")
    assert [path for path, _ in server[1].asked] == ["/edge_grpo"]


def test_workers_are_told_names_dtypes_and_shapes() -> None:
    tensors = [("a.weight", torch.zeros(2, 3)), ("b", torch.zeros(4, dtype=torch.bfloat16))]
    assert Broadcast.announcement(tensors) == {
        "names": ["a.weight", "b"],
        "dtype_names": ["float32", "bfloat16"],
        "shapes": [[2, 3], [4]],
    }
