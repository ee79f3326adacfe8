import dataclasses

import pytest
import torch
from methods.steps import current, make_step, pieces, run_update, totals_of

from edge_grpo.base.metrics import means
from edge_grpo.functional import advantages as adv
from edge_grpo.functional.filters import high_entropy
from edge_grpo.functional.means import mean_over_rows, mean_over_tokens
from edge_grpo.methods import METHODS, TopUp
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.grpo import Grpo

EVERY = [torch.arange(12)]


def test_every_token_gets_its_rows_advantage() -> None:
    batch = make_step()
    signal = Grpo().signal(batch)
    for i in range(len(batch.group)):
        expected = signal.row_advantages[i] if signal.keep[i] else 0.0
        assert (signal.advantages[i, batch.mask[i]] == expected).all()
        assert (signal.advantages[i, ~batch.mask[i]] == 0).all()


@pytest.mark.parametrize("kind", [kind for kind in METHODS if isinstance(METHODS[kind](), pg.GroupModifiers)])
def test_a_row_with_no_other_to_compare_it_with_is_not_kept(kind: str) -> None:
    """Its advantage is 0, but it would count among the rows that the loss is averaged over."""
    batch = make_step()
    alone = int((batch.group == 0).nonzero()[0])
    scorable = (batch.group != 0) | (torch.arange(12) == alone)
    kept = METHODS[kind]().signal(dataclasses.replace(batch, scorable=scorable & batch.scorable)).keep
    assert not kept[batch.group == 0].any()
    assert kept[batch.group == 1].any()


def test_the_entropy_quantile_is_taken_over_the_whole_step() -> None:
    batch = make_step()
    signal = Grpo(entropy_quantile=0.3).signal(batch)
    chosen = high_entropy(batch.entropy, batch.mask & signal.keep[:, None], top=0.3)
    full = Grpo().signal(batch).advantages
    assert torch.equal(signal.advantages, torch.where(chosen, full, 0.0))
    assert torch.equal(signal.mask, batch.mask)


def test_unfinished_rows_lose_their_mask_but_stay_in_the_counts() -> None:
    batch = make_step()
    signal = Grpo(mask_unfinished=True).signal(batch)
    assert not signal.mask[~batch.finished].any()
    assert torch.equal(signal.keep, Grpo().signal(batch).keep)
    assert torch.equal(signal.row_advantages, Grpo().signal(batch).row_advantages)


def test_metrics_before_and_after_are_equal_without_shaping() -> None:
    metrics = means(Grpo().signal(make_step()).metrics)
    assert metrics["advantage/variance"] == metrics["advantage/variance_before"] > 0
    assert metrics["advantage/max_abs"] > 0
    assert metrics["rows/trained"] == pytest.approx(11 / 12)


def test_the_entropy_bonus_goes_to_the_tokens_above_the_quantile() -> None:
    batch = make_step()
    logprobs, entropy = (column.requires_grad_() for column in current(batch))
    method = Grpo(entropy_coef=0.25, entropy_quantile=0.3)
    signal = method.signal(batch)
    x = pieces(batch, signal, EVERY[0], logprobs, entropy)
    method.loss(x, totals_of(method, batch, signal, EVERY)).backward()
    assert entropy.grad is not None
    assert torch.equal(entropy.grad[EVERY[0], : x.acting.shape[1]] != 0, x.acting)
    assert 0 < x.acting.sum() < x.mask.sum()


def test_kl_and_entropy_are_added_with_their_weights() -> None:
    batch = make_step()
    logprobs, entropy = current(batch)
    plain, both = Grpo(), Grpo(beta=0.5, entropy_coef=0.25)
    signal = plain.signal(batch)
    x = pieces(batch, signal, EVERY[0], logprobs, entropy)
    totals = totals_of(both, batch, signal, EVERY)
    kl = mean_over_rows(pg.reference_kl(x, pg.log_ratio(x, both.ratio_level), both), x.mask, rows=totals.rows)
    bonus = mean_over_tokens(x.entropy, x.mask, tokens=totals.tokens)
    wanted = plain.loss(x, totals) + 0.5 * kl - 0.25 * bonus
    assert torch.allclose(both.loss(x, totals), wanted)
    assert both.needs.reference
    assert both.needs.entropy_gradient
    assert not plain.needs.reference
    assert not plain.needs.entropy_gradient


def test_the_off_policy_mask_removes_gradients() -> None:
    batch = make_step()
    far = dataclasses.replace(batch, sampling_logprobs=batch.old_logprobs + 5)
    signal = Grpo().signal(far)
    logprobs, entropy = current(far)
    _, gradient, _ = run_update(Grpo(off_policy_threshold=1.0), far, signal, logprobs, entropy, EVERY)
    assert (gradient[signal.row_advantages < 0] == 0).all()
    assert (gradient[signal.row_advantages > 0] != 0).any()


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate"])
def test_truncated_sampler_corrections_scale_by_at_most_the_cap(mode: str) -> None:
    batch = make_step()
    moved = dataclasses.replace(batch, sampling_logprobs=batch.old_logprobs - 9)
    signal = Grpo().signal(moved)
    logprobs, entropy = current(moved)
    plain = run_update(Grpo(), moved, signal, logprobs, entropy, EVERY)
    scaled = run_update(Grpo(sampler_correction=mode, sampler_clip_max=2.0), moved, signal, logprobs, entropy, EVERY)
    assert torch.allclose(scaled[1], 2 * plain[1])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind not in ("vespo", "disco", "disco_b", "rpo")])
def test_sampler_weights_are_those_of_the_policy_before_the_updates(kind: str, level: str) -> None:
    """Where the sampler drifted by the same on every token, the correction scales every gradient by one number."""
    batch = make_step()
    moved = dataclasses.replace(batch, sampling_logprobs=torch.where(batch.mask, batch.old_logprobs - 0.25, 0.0))
    plain = dataclasses.replace(METHODS[kind](), beta=0.0)
    corrected = dataclasses.replace(plain, sampler_correction=f"{level}_truncate", sampler_clip_max=1e9)
    signal = plain.signal(moved)
    logprobs, entropy = current(moved)
    wanted = run_update(plain, moved, signal, logprobs, entropy, EVERY)[1]
    drift = 0.25 * (signal.mask.sum(-1, keepdim=True) if level == "sequence" else signal.mask)
    got = run_update(corrected, moved, signal, logprobs, entropy, EVERY)[1]
    assert (wanted != 0).any()
    assert torch.allclose(got, wanted * drift.exp())


@pytest.mark.parametrize("mode", ["token_mask", "sequence_mask"])
def test_masking_sampler_corrections_drop_what_exceeds_the_cap(mode: str) -> None:
    batch = make_step()
    moved = dataclasses.replace(batch, sampling_logprobs=batch.old_logprobs - 9)
    logprobs, entropy = current(moved)
    method = Grpo(sampler_correction=mode, sampler_clip_max=2.0)
    loss, gradient, _ = run_update(method, moved, method.signal(moved), logprobs, entropy, EVERY)
    assert loss == 0
    assert (gradient == 0).all()


def test_clip_shares_are_observed() -> None:
    batch = make_step()
    method = Grpo(clip_low=0.0, clip_high=0.0)
    signal = method.signal(batch)
    x = pieces(batch, signal, EVERY[0], *current(batch))
    totals = totals_of(method, batch, signal, EVERY)
    observed = means(method.observe(x, totals))
    assert observed["clip/low"] > 0
    assert observed["clip/high"] > 0
    wide = means(Grpo(clip_low=1.0, clip_high=9.0).observe(x, totals))
    assert wide["clip/low"] == wide["clip/high"] == 0


def test_dynamic_sampling_needs_rounds() -> None:
    assert Grpo().needs.top_up == TopUp()
    assert Grpo(top_up=TopUp(max_rounds=2)).needs.top_up == TopUp(max_rounds=2)


def test_the_kl_of_a_token_counts_no_more_than_its_bound() -> None:
    batch = make_step()
    x = pieces(batch, Grpo().signal(batch), EVERY[0], *current(batch))
    plain = Grpo(beta=1.0, kl_bias_correction=False)
    ratio = pg.log_ratio(x, plain.ratio_level)
    assert pg.reference_kl(x, ratio, plain).max() > 0.01
    bounded = Grpo(beta=1.0, kl_bias_correction=False, kl_max=0.01)
    assert torch.equal(pg.reference_kl(x, ratio, bounded), pg.reference_kl(x, ratio, plain).clamp(max=0.01))


def test_scales_are_the_functions_of_that_name() -> None:
    batch = make_step()
    reward, group, scorable = batch.reward, batch.group, batch.scorable
    wanted = {
        "group": adv.group_normalized(reward, group, scorable),
        "batch": adv.batch_scaled(reward, group, scorable),
        "none": adv.group_centered(reward, group, scorable),
    }
    for scale, values in wanted.items():
        assert torch.equal(Grpo(scale=scale).signal(batch).row_advantages, values)


def test_gdpo_leaves_out_unscorable_rows() -> None:
    batch = make_step()
    signal = Grpo(objectives="normalize_then_sum").signal(batch)
    parts = torch.where(batch.scorable[:, None], batch.reward_parts, torch.nan)
    assert torch.equal(signal.row_advantages, adv.normalized_then_summed(parts, batch.reward_weights, batch.group))
