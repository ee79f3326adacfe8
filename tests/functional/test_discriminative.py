import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.functional import discriminative as disc

GROUP = torch.tensor([7, 3, 7, 7, 3, 8, 8])
RIGHT = torch.tensor([True, True, False, False, False, True, True])
WRONG = ~RIGHT
SCORES = torch.tensor([-1.0, -0.5, -2.0, -4.0, -0.7, -9.0, -9.0], dtype=torch.float64)


def hard(scores: list[float], tau: float) -> float:
    return tau * math.log(sum(math.exp(score / tau) for score in scores) / len(scores))


def test_weights_do_not_depend_on_how_many_are_right() -> None:
    weights = disc.class_weights(GROUP, RIGHT, WRONG, like=SCORES)
    assert weights.tolist() == [1, 1, -0.5, -0.5, -1, 0, 0]
    assert weights.dtype == SCORES.dtype


def test_right_over_wrong_matches_hand_calculation() -> None:
    assert disc.right_over_wrong(SCORES, GROUP, RIGHT, WRONG).item() == pytest.approx((-1 + 3) + (-0.5 + 0.7))


@pytest.mark.parametrize("tau", [0.05, 1.0, 10.0])
def test_right_over_hard_wrong_matches_hand_calculation(tau: float) -> None:
    wanted = (-1 - hard([-2.0, -4.0], tau)) + (-0.5 + 0.7)
    assert disc.right_over_hard_wrong(SCORES, GROUP, RIGHT, WRONG, tau=tau).item() == pytest.approx(wanted)


def test_the_hardest_wrong_answers_weigh_most() -> None:
    scores = SCORES.clone().requires_grad_()
    disc.right_over_hard_wrong(scores, GROUP, RIGHT, WRONG, tau=2.0).backward()
    share = 1 / (1 + math.exp(-1))
    wanted = torch.tensor([1, 1, -share, share - 1, -1, 0, 0], dtype=torch.float64)
    assert scores.grad is not None
    assert torch.allclose(scores.grad, wanted)


def test_tau_interpolates_between_mean_and_maximum() -> None:
    scores = SCORES[:5], GROUP[:5], RIGHT[:5], WRONG[:5]
    basic = disc.right_over_wrong(*scores)
    assert torch.allclose(disc.right_over_hard_wrong(*scores, tau=1e6), basic, atol=1e-5)
    assert torch.allclose(
        disc.right_over_hard_wrong(*scores, tau=1e-3), torch.tensor(1.2, dtype=torch.float64), atol=1e-3
    )


def test_a_row_may_be_in_neither_class() -> None:
    right, wrong = RIGHT.clone(), WRONG.clone()
    wrong[2] = False
    assert disc.right_over_wrong(SCORES, GROUP, right, wrong).item() == pytest.approx((-1 + 4) + 0.2)
    assert disc.mixed(GROUP, right, wrong).tolist() == [True, True, True, True, True, False, False]


def test_without_a_mixed_group_value_and_gradient_are_zero() -> None:
    scores = torch.tensor([1.0, 2.0, math.nan], requires_grad=True)
    group, right = torch.tensor([0, 0, 1]), torch.tensor([True, True, False])
    for value in (
        disc.right_over_wrong(scores, group, right, ~right),
        disc.right_over_hard_wrong(scores, group, right, ~right, tau=1.0),
    ):
        (gradient,) = torch.autograd.grad(value, scores)
        assert value == 0
        assert (gradient == 0).all()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(-5, 5)), min_size=1, max_size=12), st.floats(-3, 3)
)
def test_order_and_shifts_do_not_matter_and_the_soft_maximum_is_above_the_mean(
    rows: list[tuple[int, bool, float]], shift: float
) -> None:
    def columns(listed: list[tuple[int, bool, float]]) -> tuple[torch.Tensor, ...]:
        group, right, scores = zip(*listed, strict=True)
        flags = torch.tensor(right)
        return torch.tensor(scores, dtype=torch.float64), torch.tensor(group), flags, ~flags

    scores, *rest = columns(rows)
    basic = disc.right_over_wrong(scores, *rest)
    hardest = disc.right_over_hard_wrong(scores, *rest, tau=0.5)
    assert hardest <= basic + 1e-9
    assert torch.allclose(disc.right_over_hard_wrong(*columns(rows[::-1]), tau=0.5), hardest)
    assert torch.allclose(disc.right_over_hard_wrong(scores + shift, *rest, tau=0.5), hardest, atol=1e-9)
    assert torch.allclose(disc.right_over_wrong(scores + shift, *rest), basic, atol=1e-9)


def test_scores_and_drift_ignore_garbage_outside_the_mask() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    log_ratio = torch.log(torch.tensor([[2.0, 4.0, 1.0], [0.5, 1.0, 1.0]], dtype=torch.float64))
    for filler in (math.nan, math.inf, -math.inf, 1e30):
        polluted = torch.where(mask, log_ratio, filler).requires_grad_()
        values = [
            disc.likelihood_ratio_score(polluted, mask),
            disc.log_likelihood_score(polluted, mask),
            disc.old_kl_k1(polluted, mask).sum(-1),
            disc.old_kl_k3(polluted, mask).sum(-1),
        ]
        assert values[0].tolist() == pytest.approx([3, 0.5])
        assert values[2].tolist() == pytest.approx([-math.log(8), math.log(2)])
        assert values[3].tolist() == pytest.approx([6 - 2 - math.log(8), 0.5 - 1 + math.log(2)])
        torch.stack(values).sum().backward()
        assert polluted.grad is not None
        assert (polluted.grad[~mask] == 0).all()


def test_k3_is_never_negative_and_both_estimate_the_divergence() -> None:
    old = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    new = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    log_ratio, mask = (new / old).log()[None], torch.ones(1, 3).bool()
    true = (old * (old / new).log()).sum()
    for estimate in (disc.old_kl_k1, disc.old_kl_k3):
        assert torch.allclose((old * estimate(log_ratio, mask)).sum(), true)
    assert (disc.old_kl_k3(log_ratio, mask) >= 0).all()


@pytest.mark.parametrize("total", [0.05, 0.3])
def test_penalties_add_up_over_micro_batches(total: float) -> None:
    shares = torch.tensor([0.2 * total, 0.8 * total], dtype=torch.float64, requires_grad=True)
    violation = max(total - 0.1, 0)
    limit = {"total": total, "delta": 0.1, "beta": 5.0}
    parts = [0.25, 0.75]
    priced = sum(disc.multiplier_penalty(share, **limit) for share in shares)
    squared = sum(disc.squared_penalty(s, **limit, part=p) for s, p in zip(shares, parts, strict=True))
    assert isinstance(priced, torch.Tensor)
    assert isinstance(squared, torch.Tensor)
    assert priced.item() == pytest.approx(5 * violation * total)
    assert squared.item() == pytest.approx(5 * violation**2)
    assert torch.autograd.grad(priced, shares, retain_graph=True)[0].tolist() == pytest.approx([5 * violation] * 2)
    assert torch.autograd.grad(squared, shares)[0].tolist() == pytest.approx([10 * violation] * 2)
