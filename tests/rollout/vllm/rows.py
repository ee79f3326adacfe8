"""Rows to sample, what the in-process engine makes of them, and how two engines' rollouts are compared."""

from collections.abc import Callable, Sequence

import pytest
import torch

from edge_grpo.base.records import Rollout
from edge_grpo.base.rng import derive_seed
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Request
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.vllm.engine import VllmEngine

STOPS = (3, 7, 20)
Make = Callable[..., VllmEngine]


def requests(lengths: Sequence[int] = (6, 11, 8), samples: int = 4) -> list[Request]:
    return [
        Request(tuple(range(10, 10 + length)), tuple(derive_seed(1, i, j) for j in range(samples)))
        for i, length in enumerate(lengths)
    ]


def in_process(policy: Policy, stops: Sequence[str] = ()) -> DecodeEngine:
    return DecodeEngine(policy, stop_ids=STOPS, stop_texts=stops, pad_id=0)


def seen(asked: Sequence[Request]) -> list[Request]:
    """The requests with the seeds that the server sees: 63 bits."""
    return [Request(each.prompt_ids, tuple(seed % 2**63 for seed in each.seeds)) for each in asked]


def agree(found: Sequence[Sequence[Rollout]], wanted: Sequence[Sequence[Rollout]]) -> bool:
    """Whether all rollouts have the same tokens, log-probs to rounding, and ends."""
    assert [len(group) for group in found] == [len(group) for group in wanted]
    pairs = [pair for groups in zip(found, wanted, strict=True) for pair in zip(*groups, strict=True)]
    return all(_same(ours, theirs) for ours, theirs in pairs)


def _same(ours: Rollout, theirs: Rollout) -> bool:
    pairs = list(zip(ours.spans, theirs.spans, strict=True))
    return (
        (ours.prompt_ids, ours.finished, ours.ends_in_text) == (theirs.prompt_ids, theirs.finished, theirs.ends_in_text)
        and all((one.token_ids, one.segment) == (two.token_ids, two.segment) for one, two in pairs)
        and all(one.logprobs == pytest.approx(two.logprobs, abs=2e-5) for one, two in pairs if one.logprobs)
    )


def perturb(policy: Policy, by: float = 0.05) -> None:
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(by * torch.sin(torch.arange(weight.numel(), dtype=weight.dtype)).view_as(weight))
