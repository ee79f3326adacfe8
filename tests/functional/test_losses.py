import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edge_grpo.functional import losses

NAN = float("nan")
ONE = torch.ones(1, 1).bool()
VESPO = {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0}


def clipped(logprobs: Tensor, ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return losses.clipped_loss(ratio, advantages, mask, clip_low=0.2, clip_high=0.28, delta=2.0)


def cispo(logprobs: Tensor, ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return losses.cispo_loss(logprobs, ratio, advantages, mask, cap=5.0)


def sapo(logprobs: Tensor, ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return losses.sapo_loss(ratio, advantages, mask, temperature_positive=1.0, temperature_negative=1.05)


def vespo(logprobs: Tensor, ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return losses.vespo_loss(logprobs, losses.vespo_weight(ratio, advantages, mask, **VESPO), advantages, mask)


def plain(logprobs: Tensor, ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return losses.policy_gradient_loss(logprobs, advantages, mask)


ALL = [clipped, cispo, sapo, vespo, plain]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("by_row", [False, True])
def test_garbage_outside_the_mask_changes_nothing(loss: Loss, by_row: bool) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    clean = torch.log(torch.tensor([[0.5, 0.9, 0.5], [0.3, 0.5, 0.5], [0.5, 0.5, 0.5]], dtype=torch.float64))
    results = []
    for filler in (0.0, NAN, torch.inf, -torch.inf):
        logprobs = torch.where(mask, clean, filler).requires_grad_()
        old = torch.where(mask, clean - 0.05, filler)
        advantages = torch.where(mask, torch.tensor([[1.0], [-2.0], [1.0]], dtype=torch.float64), filler)
        ratio = losses.log_ratio(logprobs, old, mask)
        ratio = losses.sequence_log_ratio(ratio, mask) if by_row else ratio
        values = loss(logprobs, ratio, advantages, mask)
        values.sum().backward()
        results.append((values, logprobs.grad))
    assert (results[0][0][~mask] == 0).all()
    for values, gradient in results[1:]:
        assert torch.equal(values, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_every_loss_is_plain_policy_gradient_at_ratio_one(loss: Loss, advantage: float) -> None:
    logprobs = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 2).bool()
    ratio = losses.log_ratio(logprobs, logprobs.detach(), mask)
    loss(logprobs, ratio, torch.full_like(ratio, advantage).detach(), mask).sum().backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, torch.full((1, 2), -advantage, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "wanted"),
    [
        (1.1, 1.0, None, -1.1),
        (1.5, 1.0, None, -1.28),  # clipped above
        (0.5, 1.0, None, -0.5),
        (0.5, -1.0, None, 0.8),  # clipped below
        (3.0, -1.0, None, 3.0),  # unbounded
        (3.0, -1.0, 2.0, 2.0),  # bounded by delta
        (3.0, 1.0, 2.0, -1.28),
    ],
)
def test_clipped_loss_matches_hand_calculations(
    ratio: float, advantage: float, delta: float | None, wanted: float
) -> None:
    log_ratio = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    got = losses.clipped_loss(
        log_ratio, torch.full_like(log_ratio, advantage), ONE, clip_low=0.2, clip_high=0.28, delta=delta
    )
    assert got.item() == pytest.approx(wanted)


def test_cispo_matches_hand_calculation() -> None:
    logprobs = torch.tensor([[-2.0]], requires_grad=True)
    loss = losses.cispo_loss(logprobs, torch.tensor([[math.log(9.0)]]), torch.tensor([[3.0]]), ONE, cap=5.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(5 * 3 * 2)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == -15


def test_vespo_weight_matches_hand_calculation() -> None:
    ratio = torch.log(torch.tensor([[2.0, 1.5]], dtype=torch.float64))
    mask = torch.ones(1, 2).bool()
    got = losses.vespo_weight(ratio, torch.tensor([[1.0, -1.0]], dtype=torch.float64), mask, **VESPO)
    assert got[0, 0].item() == pytest.approx(3**2 * math.exp(3 * (1 - 3)))
    assert got[0, 1].item() == pytest.approx(3**3 * math.exp(2 * (1 - 3)))


def test_a_sampler_correction_multiplies_the_ratio_in_vespo() -> None:
    zero, mask = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2).bool()
    weights = torch.log(torch.tensor([[2.0, 1.5]], dtype=torch.float64))
    with_sampler = losses.vespo_weight(zero, zero, mask, weights, **VESPO)
    assert torch.allclose(with_sampler, losses.vespo_weight(weights, zero, mask, **VESPO))
    nothing_left = losses.vespo_weight(zero, zero, mask, torch.full_like(zero, -torch.inf), **VESPO)
    assert nothing_left.isfinite().all()
    assert (nothing_left < 1e-9).all()


def test_sequence_ratio_is_the_mean_over_tokens() -> None:
    mask = torch.tensor([[True, True, False]])
    got = losses.sequence_log_ratio(torch.tensor([[0.2, 0.4, 9.0]]), mask)
    assert torch.allclose(got, torch.full((1, 3), 0.3))


def test_clip_flags_mark_only_the_side_where_the_gradient_vanishes() -> None:
    log_ratio = torch.log(torch.tensor([0.5, 0.5, 1.5, 1.5, 1.0]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    low = losses.clipped_low(log_ratio, advantages, clip_low=0.2)
    high = losses.clipped_high(log_ratio, advantages, clip_high=0.2)
    assert low.tolist() == [False, True, False, False, False]
    assert high.tolist() == [False, False, True, False, False]
