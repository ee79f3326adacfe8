import math

import pytest
import torch

from edge_grpo.functional.terms import bias_corrected, k3_kl, likelihood_loss

ONE = torch.ones(1, 1).bool()


def test_k3_matches_hand_calculation() -> None:
    logprobs = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    kl = k3_kl(logprobs, torch.tensor([[-1.5]], dtype=torch.float64), ONE)
    kl.sum().backward()
    assert kl.item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(1 - math.exp(-0.5))


def test_the_correction_changes_the_gradient_at_ratio_one() -> None:
    logprobs = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    kl = k3_kl(logprobs, torch.tensor([[-1.5]], dtype=torch.float64), ONE)
    corrected = bias_corrected(kl, logprobs - logprobs.detach())
    assert torch.equal(corrected, kl)
    (plain,) = torch.autograd.grad(kl.sum(), logprobs, retain_graph=True)
    (gradient,) = torch.autograd.grad(corrected.sum(), logprobs)
    assert (gradient - plain).item() == pytest.approx(kl.item())


def test_padding_affects_neither_value_nor_gradient() -> None:
    nan = torch.full((1, 2), torch.nan)
    mask = torch.tensor([[True, False]])
    logprobs = torch.where(mask, torch.tensor([[-1.0, 0.0]]), nan).requires_grad_()
    kl = k3_kl(logprobs, torch.where(mask, torch.tensor([[-2.0, 0.0]]), nan), mask)
    loss = likelihood_loss(logprobs, torch.where(mask, 0.5, nan), mask)
    (kl.sum() + loss.sum()).backward()
    assert loss.tolist() == [[0.5, 0.0]]
    assert kl[0, 1] == 0
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()
    assert logprobs.grad[0, 1] == 0
