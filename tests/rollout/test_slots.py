"""Rows in slots: what takes a place that became free, moves together or is drawn in blocks is sampled the same."""

import pytest
import torch
from support import tiny_policy

from edge_grpo.models.policy import Policy
from edge_grpo.rollout.cache import SLOTS, Cached
from edge_grpo.rollout.draw import draw
from edge_grpo.rollout.engine import Request, Sampling, Start
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.slots import Slots

PROMPTS = ((5, 6, 7), (8, 9, 10, 11, 12, 13), (6, 5, 4), (9,), (30, 31, 32, 33, 34))


def engine(policy: Policy, max_rows: int) -> DecodeEngine:
    made = DecodeEngine(policy, stop_ids=range(20, 30), pad_id=0, max_rows=max_rows)
    assert made.decoding == SLOTS
    return made


@pytest.mark.parametrize("max_rows", [1, 3, 4, 7])
def test_rows_that_take_over_a_place_are_sampled_as_before(max_rows: int) -> None:
    policy = tiny_policy()
    requests = [Request(prompt, tuple(range(10 * i, 10 * i + 4))) for i, prompt in enumerate(PROMPTS)]
    wanted, found = (engine(policy, rows).sample(requests, Sampling(80)) for rows in (256, max_rows))
    lengths = {len(rollout.completion_ids) for group in wanted for rollout in group}
    assert len(lengths) > 5, "rows end at different times"
    for ours, theirs in zip(found, wanted, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert one.completion_ids == two.completion_ids
            assert one.finished == two.finished
            assert one.spans[0].logprobs == pytest.approx(two.spans[0].logprobs, abs=1e-4)


@torch.inference_mode()
def test_any_order_of_rows_leaves_their_logits() -> None:
    """Against the model's own cache, through drops, repeats, swaps, growth and admissions."""
    policy = tiny_policy()
    slots, cache = Slots(policy, PROMPTS[:3]), Cached(policy, [Start(prompt) for prompt in PROMPTS[:3]], 0)
    steps = (((0, 1, 2), (3, 4, 5)), ((2, 0), (6, 7)), ((1, 0, 0, 1), (8, 9, 10, 11)), ((0, 2, 3), (12, 13, 14)))
    for chosen, tokens in (*steps, *[((0, 1, 2), (15, 16, 17))] * 70):
        for context in (slots, cache):
            context.select(torch.tensor(chosen))
            context.extend(torch.tensor(tokens))
        assert torch.allclose(slots.logits, cache.logits, atol=1e-3)
    slots.select(torch.tensor([0, 2]))
    slots.admit(PROMPTS[3:])
    alone = Slots(policy, PROMPTS[3:])
    for context, tokens in ((slots, (1, 2, 3, 4)), (alone, (3, 4))):
        context.extend(torch.tensor(tokens))
    assert torch.allclose(slots.logits[2:], alone.logits, atol=1e-3)


@pytest.mark.parametrize("vocabulary", [7, 1024, 1025, 3000])
def test_the_token_is_the_first_beyond_a_share_of_the_mass(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn((50, vocabulary), generator=generator)
    logits[:, 1::3] = -torch.inf
    noise = torch.rand(50, generator=generator, dtype=torch.float64)
    noise[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs, entropies = draw(logits, noise, Sampling(1, temperature=0.7))
    table = (logits / 0.7).double().log_softmax(-1)
    cumulative = table.exp().cumsum(-1)
    wanted = (cumulative > noise[:, None] * cumulative[:, -1:]).int().argmax(-1)
    assert torch.equal(tokens, wanted)
    assert torch.isfinite(table.gather(-1, tokens[:, None])).all(), "never a token of no mass"
    assert torch.allclose(logprobs.double(), table.gather(-1, tokens[:, None]).squeeze(-1), atol=1e-5)
    assert torch.allclose(entropies.double(), -(table.exp() * table.nan_to_num(neginf=0)).sum(-1), atol=1e-5)
