"""What DisCO and DisCO-b share, and what distinguishes them from policy gradients."""

from dataclasses import replace

import pytest
import torch
from methods.steps import current, make_group, make_step, pieces, run_update, totals_of
from torch import Tensor

from edge_grpo.base.metrics import merge
from edge_grpo.functional.losses import log_ratio
from edge_grpo.methods import TopUp
from edge_grpo.methods.disco import Disco
from edge_grpo.methods.disco_b import DiscoB

SCORES = ["log_likelihood", "likelihood_ratio"]
BOTH = [Disco, DiscoB]
everything = torch.arange


def gradient(method: Disco | DiscoB, *, moved: bool = True) -> tuple[Tensor, Tensor]:
    """The loss's gradient on the made-up step, and the weights of its rows."""
    batch = make_step()
    signal = method.signal(batch)
    logprobs, entropy = current(batch) if moved else (batch.old_logprobs, batch.entropy)
    _, gradients, _ = run_update(method, batch, signal, logprobs, entropy, [everything(len(batch.group))])
    return gradients, signal.row_advantages


@pytest.mark.parametrize("cls", BOTH)
def test_the_method_defaults_to_four_updates_per_step(cls: type[Disco] | type[DiscoB]) -> None:
    assert cls.train_defaults == {"mini_batches": 4}
    assert cls().needs.whole_groups
    assert cls().needs.forward_totals
    assert not cls(beta=0.0).needs.forward_totals
    assert not cls().needs.reference


@pytest.mark.parametrize("cls", BOTH)
def test_right_and_wrong_are_flags_regardless_of_rewards(cls: type[Disco] | type[DiscoB]) -> None:
    batch = make_step()
    other = replace(batch, reward=-7 * batch.reward)
    assert torch.equal(cls().signal(batch).advantages, cls().signal(other).advantages)
    assert cls().useful(make_group([True, False]))
    assert not cls().useful(make_group([False, False]))
    assert cls().needs.top_up == TopUp()
    assert cls(top_up=TopUp(max_rounds=2)).needs.top_up == TopUp(max_rounds=2)


def test_only_rows_of_mixed_groups_have_a_weight_but_all_scorable_ones_stay() -> None:
    batch = make_step()
    signal = DiscoB().signal(batch)
    assert torch.equal(signal.keep, batch.scorable)
    assert (signal.row_advantages[(batch.group == 0) | ~batch.scorable] == 0).all()
    for name in batch.group.unique():
        own = signal.row_advantages[batch.group == name]
        assert own.sum().item() == pytest.approx(0)
        assert own.clamp(min=0).sum().item() in (pytest.approx(0), pytest.approx(1))
    assert signal.metrics["groups/mixed"] == (2.0, 3.0)


@pytest.mark.parametrize("score", SCORES)
def test_at_the_first_update_all_are_the_weighted_likelihood(score: str) -> None:
    """Both scores have one gradient there, and the limit adds nothing, not even where delta is 0."""
    batch = make_step()
    got, weights = gradient(DiscoB(score=score, delta=0.0), moved=False)  # type: ignore[arg-type]
    lengths = batch.mask.sum(-1)
    assert torch.allclose(got, torch.where(batch.mask, -(weights / lengths)[:, None] / 3, 0.0), atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("estimator", "penalty"), [("k1", "multiplier"), ("k3", "multiplier"), ("k1", "squared")])
def test_gradient_of_a_later_update_by_formula(score: str, estimator: str, penalty: str) -> None:
    method = DiscoB(score=score, kl_estimator=estimator, penalty=penalty, beta=30.0, delta=1e-3)  # type: ignore[arg-type]
    batch = make_step()
    logprobs, _ = current(batch)
    kept = batch.mask & batch.scorable[:, None]
    drift = log_ratio(logprobs, batch.old_logprobs, kept)
    ratio = drift.exp()
    total = float((-drift if estimator == "k1" else ratio - 1 - drift)[kept].mean())
    price = 30 * max(total - 1e-3, 0) * (2 if penalty == "squared" else 1)
    got, weights = gradient(method)
    of_scores = (ratio if score == "likelihood_ratio" else torch.ones_like(ratio)) / batch.mask.sum(-1)[:, None]
    of_drift = (-torch.ones_like(ratio) if estimator == "k1" else ratio - 1) / kept.sum()
    wanted = torch.where(kept, -weights[:, None] * of_scores / 3 + price * of_drift, 0.0)
    assert torch.allclose(got, wanted, atol=1e-12)


def moved_down(by: float = 0.05) -> tuple[Disco, Tensor]:
    return Disco(kl_estimator="k1"), make_step().old_logprobs - by


def test_drift_costs_only_beyond_its_limit() -> None:
    batch = make_step()
    signal = Disco().signal(batch)
    rows = [everything(len(batch.group))]
    for by, beyond in ((0.05, True), (-0.05, False)):
        method, logprobs = moved_down(by)
        with_limit, *_ = run_update(method, batch, signal, logprobs, batch.entropy, rows)
        without, *_ = run_update(replace(method, beta=0.0), batch, signal, logprobs, batch.entropy, rows)
        cost = 1e3 * (0.05 - 1e-4) * 0.05 if beyond else 0.0
        assert (with_limit - without).item() == pytest.approx(cost)
        squared, *_ = run_update(replace(method, penalty="squared"), batch, signal, logprobs, batch.entropy, rows)
        assert (squared - without).item() == pytest.approx(1e3 * (0.05 - 1e-4) ** 2 if beyond else 0.0)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("penalty", ["multiplier", "squared"])
@pytest.mark.parametrize("score", SCORES)
def test_splitting_by_groups_changes_nothing(cls: type[Disco] | type[DiscoB], penalty: str, score: str) -> None:
    method = cls(penalty=penalty, score=score, delta=0.0)  # type: ignore[arg-type]
    batch = make_step(groups=4)
    signal = method.signal(batch)
    logprobs, entropy = current(batch)
    split = [(batch.group == name).nonzero().squeeze(-1) for name in (2, 0, 3, 1)]
    whole = run_update(method, batch, signal, logprobs, entropy, [everything(len(batch.group))])
    parts = run_update(method, batch, signal, logprobs, entropy, split)
    for mine, theirs in zip(parts, whole, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_what_is_observed() -> None:
    batch = make_step()
    method = DiscoB()
    signal = method.signal(batch)
    rows = everything(len(batch.group))
    logprobs = batch.old_logprobs - 0.05
    x = pieces(batch, signal, rows, logprobs, batch.entropy)
    totals = totals_of(method, batch, signal, [rows], logprobs)
    seen = method.observe(x, totals)
    assert seen["kl/old"][0] / seen["kl/old"][1] == pytest.approx(0.05)
    means = torch.where(batch.mask, logprobs, 0.0).sum(-1) / batch.mask.sum(-1)
    right = signal.row_advantages > 0
    assert seen["score/right"] == (pytest.approx(float(means[right].sum())), float(right.sum()))
    assert seen["score/wrong"][1] == float((signal.row_advantages < 0).sum())
    assert totals.extra["groups"] == 3
    assert seen["kl/violated"] == (1.0, 1.0)
    assert method.observe(x, totals_of(method, batch, signal, [rows]))["kl/violated"] == (0.0, 1.0)


def test_each_update_counts_once_however_its_rows_are_split() -> None:
    batch, method = make_step(), DiscoB()
    signal, logprobs = method.signal(batch), batch.old_logprobs - 0.05
    split = [(batch.group == name).nonzero().squeeze(-1) for name in batch.group.unique()]
    totals = totals_of(method, batch, signal, split, logprobs)
    seen = [method.observe(pieces(batch, signal, rows, logprobs, batch.entropy), totals) for rows in split]
    assert merge(*seen)["kl/violated"] == (pytest.approx(1.0), pytest.approx(1.0))
