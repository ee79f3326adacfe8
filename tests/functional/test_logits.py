import math

import pytest
import torch

from edge_grpo.functional.logits import logprobs_and_entropy


def test_logprobs_and_entropy_match_hand_calculations() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    logprobs, entropy = logprobs_and_entropy(logits, torch.tensor([1]), temperature=1.0)
    assert logprobs.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    ids = torch.randint(7, (3, 5))
    for mine, theirs in zip(
        logprobs_and_entropy(logits, ids, temperature=0.5),
        logprobs_and_entropy(2 * logits, ids, temperature=1.0),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_certain_and_excluded_tokens_stay_finite() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [800.0, -1e4], [-1e4, -1e4]], requires_grad=True)
    logprobs, entropy = logprobs_and_entropy(logits, torch.tensor([0, 0, 0]), temperature=1.0)
    (logprobs.sum() + entropy.sum()).backward()
    assert entropy[:2].abs().max() == 0
    assert entropy[2].item() == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_single_precision() -> None:
    logprobs, entropy = logprobs_and_entropy(torch.randn(4, 9).bfloat16(), torch.zeros(4).long(), temperature=1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
