"""Kernels with a backward pass of their own: the values of plain expressions, and numerical derivatives."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.profiler import ProfilerActivity, profile

from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.models.kernels import head_scores, pad, rms_norm, rotate, unpad


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_head_scores(at_once: int, temperature: float) -> None:
    hidden, weight, ids = drawn(7, 4), drawn(11, 4), torch.tensor([0, 10, 3, 3, 5, 7, 1])

    def scores(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return head_scores(hidden, weight, ids, temperature=temperature, at_once=at_once)

    wanted = logprobs_and_entropy(hidden @ weight.T, ids, temperature=temperature)
    assert all(torch.allclose(*pair) for pair in zip(scores(hidden, weight), wanted, strict=True))
    assert gradcheck(scores, (hidden, weight))
    assert gradcheck(lambda *x: scores(*x)[0], (hidden, weight)), "without a gradient of the entropy"
    assert gradcheck(lambda *x: scores(*x)[1], (hidden, weight)), "or of the log-probs"


def test_head_scores_of_half_precision_are_summed_in_float32() -> None:
    hidden, weight, ids = drawn(64, 8).float().bfloat16(), drawn(5, 8).float().bfloat16(), torch.arange(64) % 5
    halves = [each.detach().requires_grad_() for each in (hidden, weight)]
    logprobs, entropy = head_scores(*halves, ids, temperature=1.0, at_once=1)
    assert logprobs.dtype == entropy.dtype == torch.float32
    logprobs.sum().backward()
    exact = weight.detach().float().requires_grad_()
    head_scores(hidden.detach().float(), exact, ids, temperature=1.0, at_once=64)[0].sum().backward()
    assert exact.grad is not None
    assert halves[1].grad is not None
    assert torch.allclose(halves[1].grad.float(), exact.grad, rtol=0.02, atol=0.05)


def test_rms_norm() -> None:
    x, weight = drawn(3, 2, 5), drawn(5)
    plain = weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(rms_norm(x, weight, 1e-3), plain)
    assert gradcheck(lambda *each: rms_norm(*each, 1e-3), (x, weight))
    with torch.no_grad():
        assert torch.equal(rms_norm(x, weight, 1e-3), rms_norm(x.detach(), weight.detach(), 1e-3))


def test_rotate() -> None:
    x, angles = drawn(3, 2, 6), drawn(3, 1, 3).detach()
    first, second = x.chunk(2, dim=-1)
    plain = torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)
    assert torch.allclose(rotate(x, angles.cos(), angles.sin()), plain)
    assert gradcheck(lambda each: rotate(each, angles.cos(), angles.sin()), (x,))


def test_padding_gets_no_gradient() -> None:
    packed = drawn(4, 2)
    slots, back = torch.tensor([0, 0, 1, 2, 3, 0]), torch.tensor([0, 2, 3, 4])
    padded = pad(packed, slots, back)
    assert torch.equal(padded[back], packed)
    assert torch.equal(unpad(padded, back), packed)
    (grad,) = torch.autograd.grad(unpad(padded * torch.arange(6)[:, None], back).sum(), packed)
    assert torch.equal(grad, back[:, None].expand(4, 2).double()), "slots 1 and 5 hold token 0 as padding"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_of_a_piece_are_gone_before_the_next(dtype: torch.dtype) -> None:
    vocabulary, at_once = 1024, 64
    one, four = (most_bytes(at_once, pieces, vocabulary, dtype) for pieces in (1, 4))
    assert four - one < 0.5 * 4 * at_once * vocabulary


def most_bytes(at_once: int, pieces: int, vocabulary: int, dtype: torch.dtype) -> int:
    """The most that both passes over some pieces had allocated at a time."""
    hidden = drawn(at_once * pieces, 4).detach().to(dtype).requires_grad_()
    weight = drawn(vocabulary, 4).detach().to(dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        scores = head_scores(hidden, weight, torch.arange(len(hidden)), temperature=1.0, at_once=at_once)
        scores[0].sum().backward()
    changes = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(accumulate(each.nbytes() for each in sorted(changes, key=lambda each: each.start_ns())))
