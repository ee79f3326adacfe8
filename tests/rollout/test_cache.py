"""Model families: how each is decoded, and that it samples what it scores, whatever else is in the batch."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from families import FAMILIES, family_policy
from torch import Tensor

from edge_grpo.base.records import Rollout
from edge_grpo.base.rng import derive_seed
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

ONE_LENGTH = {"falcon_mamba", "mamba"}
WITHOUT_CACHE = {"minimax", "recurrent_gemma", "rwkv", "xlstm"}
QUICK = ("bloom", "gemma2", "granitemoehybrid", "lfm2", "llama4_text", "mamba", "minimax", "qwen3_5_text", "qwen3_next")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]


def make_engine(policy: Policy) -> DecodeEngine:
    return DecodeEngine(policy, stop_ids=range(3, 262, 12), pad_id=0)


def make_requests(lengths: Sequence[int] = (5, 12, 9)) -> list[Request]:
    return [
        Request(tuple(range(10 + i, 10 + i + length)), tuple(derive_seed(i, j) for j in range(3)))
        for i, length in enumerate(lengths)
    ]


def padded(rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention and completion mask of some rollouts, padded on the right with an ordinary token."""
    rows = [rollout.prompt_ids + rollout.completion_ids for rollout in rollouts]
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [9] * (width - len(row)) for row in rows])
    places, lengths = torch.arange(width)[None], torch.tensor([[len(row)] for row in rows])
    prompts = torch.tensor([[len(rollout.prompt_ids)] for rollout in rollouts])
    return ids, places < lengths, (places < lengths) & (places >= prompts)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_samples_what_it_scores(name: str) -> None:
    policy = family_policy(name)
    engine = make_engine(policy)
    assert engine.decoding.cached == (name not in WITHOUT_CACHE)
    assert engine.decoding.padded == (name not in ONE_LENGTH)
    assert bool(engine.note) == (name in ONE_LENGTH | WITHOUT_CACHE)
    requests = make_requests()
    groups = engine.sample(requests, Sampling(12))
    together = [rollout for group in groups for rollout in group]
    assert len({len(rollout.completion_ids) for rollout in together}) > 1, "no row left the batch early"
    ids, attention, mask = padded(together)
    batched = policy.score(ids, attention, mask, temperature=1.0).logprobs
    for row, rollout in enumerate(together):
        alone = policy.score(*padded([rollout]), temperature=1.0).logprobs[0]
        ours = alone[len(rollout.prompt_ids) :].tolist()
        assert list(rollout.spans[0].logprobs) == pytest.approx(ours, abs=1e-4)
        assert batched[row][mask[row]].tolist() == pytest.approx(ours, abs=1e-4)
    for request, group in zip(requests, groups, strict=True):
        (single,) = engine.sample([Request(request.prompt_ids, request.seeds[1:2])], Sampling(12))[0]
        assert single.completion_ids == group[1].completion_ids


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_gradients(name: str) -> None:
    policy = family_policy(name)
    ids = torch.arange(24).reshape(2, 12) % 50 + 5
    attention = torch.arange(12)[None] < torch.tensor([[12], [7]])
    mask = attention & (torch.arange(12)[None] >= 3)
    with policy.training():
        policy.score(ids, attention, mask, temperature=1.0).logprobs.sum().backward()
    found = {name: weight.grad for name, weight in policy.trained() if weight.grad is not None}
    assert all(bool(grad.isfinite().all()) for grad in found.values())
    without = [name for name, weight in policy.trained() if not bool(found.get(name, weight.new_zeros(1)).any())]
    assert len(without) < len(found) / 3, f"no gradient: {without}"


def test_every_tested_family_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    listed = page.partition("## What is tested")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", "\n".join(re.findall(r"^\| .*", listed, re.M)))) - {"model_type"} == {
        *FAMILIES
    }
    for name in ONE_LENGTH | WITHOUT_CACHE:
        assert f"`{name}`" in page.partition("## Attention")[0]


@pytest.mark.parametrize("name", ["qwen3_5_text", "mamba", "minimax"])
def test_a_resumed_row_is_a_longer_prompt(name: str) -> None:
    engine = make_engine(family_policy(name))
    rollouts = [rollout for group in engine.sample(make_requests(), Sampling(3)) for rollout in group]
    seeds = [derive_seed("again", i) for i in range(len(rollouts))]
    wishes = [Continuation(rollout, (30, 31), 9, seed) for rollout, seed in zip(rollouts, seeds, strict=True)]
    for seed, new in zip(seeds, engine.resume(wishes, Sampling(99)), strict=True):
        start = new.prompt_ids + tuple(token for span in new.spans[:-1] for token in span.token_ids)
        (fresh,) = engine.sample([Request(start, (seed,))], Sampling(7))[0]
        assert new.spans[-1].token_ids == fresh.completion_ids
        assert new.spans[-1].logprobs == pytest.approx(fresh.spans[0].logprobs, abs=1e-4)
