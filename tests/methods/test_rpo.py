import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.steps import current, make_group, make_step, pieces, run_update, totals_of, with_rubbish
from pydantic import ValidationError
from torch import Tensor

from edge_grpo.base.metrics import means
from edge_grpo.base.tensors import Scored
from edge_grpo.functional.preference import sigmoid_loss
from edge_grpo.methods import TopUp
from edge_grpo.methods.rpo import Rpo

VARIANTS: list[dict[str, Any]] = [
    {},
    {"eta": 0.0},
    {"likelihood": "averaged", "beta": 0.5, "eta": 0.2},
    {"label_smoothing": 0.1, "rpo_alpha": 0.3},
    {"preference": "robust", "label_smoothing": 0.1},
    {"preference": "ipo", "per_token": True, "eta": 0.5},
    {"preference": "hinge", "eta": 0.5},
]
each = pytest.mark.parametrize("settings", VARIANTS, ids=lambda settings: "-".join(settings) or "default")


def paired_step(seed: int = 3) -> Scored:
    """Twelve groups of two, of which some are pairs; group 0 is all right and one row cannot be graded."""
    return make_step(seed=seed, groups=12, size=2)


def answers(batch: Scored, logprobs: Tensor) -> list[tuple[float, float, float, float, int]]:
    """For every pair: chosen and rejected under the policy and the reference, and the chosen answer's length."""
    assert batch.ref_logprobs is not None
    found = []
    for name in batch.group.unique():
        own = (batch.group == name) & batch.scorable
        rows = [(own & flags).nonzero().flatten().tolist() for flags in (batch.correct, ~batch.correct)]
        if [len(side) for side in rows] == [1, 1]:
            sums = [float(c[row][batch.mask[row]].sum()) for c in (logprobs, batch.ref_logprobs) for (row,) in rows]
            found.append((*sums, int(batch.mask[rows[0][0]].sum())))
    return found


# --- collection -------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 12))
def test_pairs_use_every_answer_as_evenly_as_their_number_allows(right: list[bool], most: int) -> None:
    group = make_group(right)
    group = replace(group, rows=tuple(replace(row, source=number) for number, row in enumerate(group.rows)))
    pairs = Rpo(max_pairs=most).arrange([group])
    assert len(pairs) == min(sum(right) * (len(right) - sum(right)), most)
    used = [(pair.rows[0].source, pair.rows[1].source) for pair in pairs]
    assert len(set(used)) == len(used)
    assert all(right[first] and not right[second] for first, second in used)
    for side, flag in ((0, True), (1, False)):
        counts = [sum(pair[side] == number for pair in used) for number, own in enumerate(right) if own is flag]
        assert not used or max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("right", "wrong"), [(2, 2), (2, 4), (3, 6), (4, 6)])
def test_no_pair_is_repeated_where_both_counts_have_a_common_divisor(right: int, wrong: int) -> None:
    group = make_group([True] * right + [False] * wrong)
    group = replace(group, rows=tuple(replace(row, source=number) for number, row in enumerate(group.rows)))
    pairs = Rpo(max_pairs=right * wrong).arrange([group])
    assert len({(pair.rows[0].source, pair.rows[1].source) for pair in pairs}) == right * wrong


def test_arranged_pairs_stay_as_they_are() -> None:
    once = Rpo().arrange([make_group([True, False, False]), make_group([True, True])])
    assert len(once) == 2
    assert Rpo().arrange(once) == once
    assert once[0].problem == make_group([True]).problem


def test_mixed_groups_are_useful() -> None:
    assert Rpo().useful(make_group([True, False]))
    assert not Rpo().useful(make_group([True, True]))
    assert Rpo().needs.top_up == TopUp()
    assert Rpo(top_up=TopUp(max_rounds=3)).needs.top_up == TopUp(max_rounds=3)


def test_what_it_asks_for() -> None:
    assert Rpo().needs.stored_pairs
    assert Rpo().needs.reference
    assert Rpo().needs.whole_groups


# --- training ---------------------------------------------------------------------------------------------------------


def test_rows_outside_of_pairs_are_dropped() -> None:
    batch = paired_step()
    signal = Rpo().signal(batch)
    count = len(answers(batch, batch.old_logprobs))
    assert 0 < count < 12
    assert signal.keep.sum() == 2 * count
    assert signal.metrics["pairs"] == (count, 1.0)
    assert torch.equal(signal.row_advantages > 0, signal.keep & batch.correct)
    assert not Rpo().signal(make_step(groups=2, size=6)).keep.any()


@each
def test_value_by_formula(settings: dict[str, Any]) -> None:
    method, batch = Rpo(**settings), paired_step()
    logprobs, entropy = current(batch)
    loss, *_ = run_update(method, batch, method.signal(batch), logprobs, entropy, [torch.arange(len(batch.group))])
    pairs = answers(batch, logprobs)
    wanted = 0.0
    tokens = sum(length for *_, length in pairs)
    for chosen, rejected, ref_chosen, ref_rejected, length in pairs:
        margin, beta, smoothing = (chosen - rejected) - (ref_chosen - ref_rejected), method.beta, method.label_smoothing
        forward, backward = (math.log1p(math.exp(-sign * beta * margin)) for sign in (1, -1))
        likelihood = -chosen
        if method.preference == "sigmoid":
            wanted += (1 - smoothing) * forward + smoothing * backward
        elif method.preference == "robust":
            wanted += ((1 - smoothing) * forward - smoothing * backward) / (1 - 2 * smoothing)
        elif method.preference == "hinge":
            wanted += max(0.0, 1 - beta * margin)
        else:
            continue  # of means: below
        averaged = method.likelihood == "averaged"
        wanted += method.eta * (likelihood / length if averaged else beta * likelihood)
        wanted += method.rpo_alpha * likelihood * len(pairs) / tokens
    if method.preference != "ipo":
        assert loss.item() == pytest.approx(wanted / len(pairs))


def test_ipo_of_means_by_hand() -> None:
    method = Rpo(preference="ipo", per_token=True, beta=0.1, eta=0.5)
    batch = paired_step()
    x = pieces(batch, method.signal(batch), torch.arange(len(batch.group)), *current(batch))
    pairs = method.pairs(x)
    assert torch.equal(pairs.chosen, pairs.mean_chosen)
    margin = (pairs.chosen - pairs.rejected) - (pairs.ref_chosen - pairs.ref_rejected)
    assert torch.allclose(method.pair_losses(pairs), (margin - 5) ** 2 - 0.1 * 0.5 * pairs.chosen)


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_the_two_gradient_formulas(eta: float) -> None:
    method, batch = Rpo(beta=0.2, eta=eta), paired_step()
    logprobs, entropy = current(batch)
    signal = method.signal(batch)
    _, gradient, _ = run_update(method, batch, signal, logprobs, entropy, [torch.arange(len(batch.group))])
    pairs = answers(batch, logprobs)
    wrongness = {
        round(c, 9): 1 / (1 + math.exp(0.2 * ((c - r) - (rc - rr)))) for c, r, rc, rr, _ in pairs
    }  # sigma(-beta D), by the chosen answer's log-prob
    checked = 0
    for name in batch.group[signal.keep].unique():
        own = (batch.group == name) & signal.keep
        chosen, rejected = ((own & flags).nonzero().item() for flags in (batch.correct, ~batch.correct))
        weight = wrongness[round(float(logprobs[chosen][batch.mask[chosen]].sum()), 9)]
        for row, wanted in ((chosen, -0.2 * (weight + eta)), (rejected, 0.2 * weight)):
            inside = gradient[row][batch.mask[row]]
            assert torch.allclose(inside, torch.full_like(inside, wanted / len(pairs)))
            checked += 1
    assert checked == 2 * len(pairs)


@each
def test_splitting_by_pairs_and_rubbish_change_nothing(settings: dict[str, Any]) -> None:
    method = Rpo(**settings)
    batch = with_rubbish(paired_step(), 0.0)
    signal = method.signal(batch)
    logprobs, entropy = current(batch)
    split = [(batch.group == name).nonzero().squeeze(-1) for name in batch.group.unique().flip(0)]
    whole = run_update(method, batch, signal, logprobs, entropy, [torch.arange(len(batch.group))])
    parts = run_update(method, batch, signal, logprobs, entropy, split)
    dirty = with_rubbish(batch, math.nan)
    soiled = torch.where(batch.mask, logprobs, math.nan)
    again = run_update(method, dirty, method.signal(dirty), soiled, entropy, split)
    for theirs, mine, other in zip(whole, parts, again, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
        assert torch.allclose(other, theirs, atol=1e-12)


@pytest.mark.parametrize(("likelihood", "none", "some"), [("summed", 9e-7, 1e-6), ("averaged", 9e-9, 1e-8)])
def test_a_tiny_eta_is_none(likelihood: Any, none: float, some: float) -> None:
    batch = paired_step()
    x = pieces(batch, Rpo().signal(batch), torch.arange(len(batch.group)), *current(batch))
    plain = Rpo(eta=0.0)
    losses = [Rpo(eta=eta, likelihood=likelihood) for eta in (none, some)]
    assert torch.equal(losses[0].pair_losses(losses[0].pairs(x)), plain.pair_losses(plain.pairs(x)))
    assert not torch.equal(losses[1].pair_losses(losses[1].pairs(x)), plain.pair_losses(plain.pairs(x)))


def test_what_is_observed() -> None:
    method, batch = Rpo(beta=0.5), paired_step()
    signal = method.signal(batch)
    rows = torch.arange(len(batch.group))
    logprobs, entropy = current(batch)
    x = pieces(batch, signal, rows, logprobs, entropy)
    seen = means(method.observe(x, totals_of(method, batch, signal, [rows])))
    pairs = answers(batch, logprobs)
    rewards = [(0.5 * (c - rc), 0.5 * (r - rr)) for c, r, rc, rr, _ in pairs]
    count = len(pairs)
    assert seen["rewards/chosen"] == pytest.approx(sum(first for first, _ in rewards) / count)
    assert seen["rewards/margins"] == pytest.approx(sum(first - second for first, second in rewards) / count)
    assert seen["rewards/accuracies"] == pytest.approx(sum(first > second for first, second in rewards) / count)
    assert seen["logps/chosen"] == pytest.approx(sum(pair[0] for pair in pairs) / count)
    assert seen["logps/rejected"] == pytest.approx(sum(pair[1] for pair in pairs) / count)
    assert seen["nll/chosen"] == pytest.approx(-sum(pair[0] for pair in pairs) / sum(pair[4] for pair in pairs))
    assert totals_of(method, batch, signal, [rows]).extra["pairs"] == count


def test_a_tie_is_not_the_right_order() -> None:
    batch = paired_step()
    batch = replace(batch, ref_logprobs=batch.old_logprobs)
    signal, rows = Rpo().signal(batch), torch.arange(len(batch.group))
    x = pieces(batch, signal, rows, batch.old_logprobs, batch.entropy)
    assert means(Rpo().observe(x, totals_of(Rpo(), batch, signal, [rows])))["rewards/accuracies"] == 0


def test_smoothing_that_would_do_nothing_is_refused() -> None:
    for kind in ("hinge", "ipo"):
        with pytest.raises(ValidationError, match=f"label_smoothing does not apply to preference={kind}"):
            Rpo(preference=kind, label_smoothing=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="less than"):
        Rpo(preference="robust", label_smoothing=0.5)


# --- the theory, on a bandit whose answers are mostly not in the data -------------------------------------------------

REFERENCE = torch.tensor([0.30, 0.25, 0.20, 0.15, 0.10], dtype=torch.float64)
BASELINE = torch.tensor([0.35, 0.15, 0.10, 0.15, 0.25], dtype=torch.float64)
FIRST, SECOND = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 1, 0, 2])  # the answers preferred, and those they beat
BETA, ETA = 0.5, 0.4  # answers 3 and 4 are in no pair


def disagreement(reward: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels under Bradley-Terry."""
    return sigmoid_loss(reward[FIRST] - reward[SECOND], beta=1.0).mean()


def minimiser() -> Tensor:
    """The policy that minimises DPO + eta * beta * (likelihood of the baseline's answers)."""
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], lr=1, max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logprobs = logits.log_softmax(0)
        margins = (logprobs - REFERENCE.log())[FIRST] - (logprobs - REFERENCE.log())[SECOND]
        value = sigmoid_loss(margins, beta=BETA).mean() - ETA * BETA * (BASELINE * logprobs).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    return logits.detach().softmax(0)


def game(policy: Tensor, reward: Tensor) -> Tensor:
    """What the policy gains over the baseline, less its divergence, plus how badly the reward explains the labels."""
    gain = (policy - BASELINE) @ reward - BETA * (policy * (policy / REFERENCE).log()).sum()
    return ETA * gain + disagreement(reward)


def maximin() -> tuple[Tensor, Tensor]:
    """The policy that is best against the worst reward, by mirror-prox: look ahead, then step from the old point."""
    policy, reward = REFERENCE.log(), torch.zeros(5, dtype=torch.float64)
    for _ in range(3000):
        ahead = policy, reward
        for _ in range(2):
            p = ahead[0].softmax(0).requires_grad_()
            r = ahead[1].clone().requires_grad_()
            up, down = torch.autograd.grad(game(p, r), (p, r))
            ahead = (policy + 1.5 * up).log_softmax(0), reward - 1.5 * down
        policy, reward = ahead
    return policy.softmax(0), reward


def test_the_likelihood_term_is_the_adversary() -> None:
    direct = minimiser()
    policy, reward = maximin()
    assert torch.allclose(direct, policy, atol=1e-6)
    implicit = BETA * (direct / REFERENCE).log()  # its own reward is the worst one, up to a constant
    assert torch.allclose(implicit - implicit.mean(), reward - reward.mean(), atol=1e-5)
    assert torch.allclose(direct[3:], BASELINE[3:], atol=1e-6)  # no reward for an answer that no label covers


def test_the_saddle_holds_against_any_other_policy_and_reward() -> None:
    direct = minimiser()
    implicit = BETA * (direct / REFERENCE).log()
    value = game(direct, implicit)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = (direct.log() + torch.randn(5, generator=generator, dtype=torch.float64)).softmax(0)
        worse = implicit + torch.randn(5, generator=generator, dtype=torch.float64)
        assert game(other, implicit) <= value + 1e-12
        assert game(direct, worse) >= value - 1e-12
