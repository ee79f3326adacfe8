"""The policy: scores of given tokens, its reference, and models it cannot score."""

import pytest
import torch
from support import padded_rows, tiny_model, tiny_policy, tiny_tokenizer
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from edge_grpo.base.errors import EngineError
from edge_grpo.models.policy import Policy


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_scores_are_those_of_the_full_logits(kind: str) -> None:
    policy = tiny_policy(kind, dtype=torch.float64)
    ids, attention, mask = padded_rows()
    scores = policy.score(ids, attention, mask, temperature=0.7)
    logits = policy.model(input_ids=ids, attention_mask=attention.long()).logits[:, :-1] / 0.7
    log_pi = logits.log_softmax(-1)
    want = log_pi.gather(-1, ids[:, 1:, None]).squeeze(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)
    assert torch.allclose(scores.logprobs[:, 1:][mask[:, 1:]], want[mask[:, 1:]], atol=1e-12)
    assert torch.allclose(scores.entropy[:, 1:][mask[:, 1:]], entropy[mask[:, 1:]], atol=1e-12)
    assert (scores.logprobs[~mask] == 0).all()


def test_chunks_change_neither_value_nor_gradient() -> None:
    ids, attention, mask = padded_rows()
    found = []
    for at_once in (2**25, 600):
        policy = tiny_policy(dtype=torch.float64)
        policy.scorer.logits_at_once = at_once
        scores = policy.score(ids, attention, mask, temperature=1.0)
        (scores.logprobs.sum() + 0.3 * scores.entropy.sum()).backward()
        found.append((scores.logprobs.detach(), [weight.grad.clone() for _, weight in policy.trained()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_padding_content_does_not_matter() -> None:
    policy = tiny_policy(dtype=torch.float64)
    ids, attention, mask = padded_rows()
    other = torch.where(attention, ids, torch.full_like(ids, 99))
    first, second = (policy.score(x, attention, mask, temperature=1.0).logprobs for x in (ids, other))
    assert torch.equal(first, second)


def test_the_reference_stays_where_it_was() -> None:
    policy = tiny_policy(reference=True)
    ids, attention, mask = padded_rows()
    with torch.no_grad():
        before = policy.score_reference(ids, attention, mask, temperature=1.0)
        for _, weight in policy.trained():
            weight.add_(0.1)
        assert torch.equal(policy.score_reference(ids, attention, mask, temperature=1.0), before)
        assert not torch.equal(policy.score(ids, attention, mask, temperature=1.0).logprobs, before)
    with pytest.raises(EngineError, match="no reference"):
        tiny_policy().score_reference(ids, attention, mask, temperature=1.0)


def test_a_model_whose_logits_are_not_head_times_hidden_is_refused() -> None:
    model = tiny_model()

    def double(model: nn.Module, args: tuple[object, ...], output: CausalLMOutputWithPast) -> None:
        output.logits = output.logits * 2

    model.register_forward_hook(double)
    with pytest.raises(EngineError, match="logits"):
        Policy(model, tiny_tokenizer())
