from dataclasses import replace

import pytest
import torch
from methods.steps import by_hand, current, make_group, make_step, run_update

from edge_grpo.base.metrics import means
from edge_grpo.functional import advantages as adv
from edge_grpo.functional.filters import comparable
from edge_grpo.methods.gpg import Gpg
from edge_grpo.training.batching import collate, scored

EVERY = [torch.arange(12)]


def test_plain_policy_gradient_over_tokens() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [0.5, -1.5], logprobs=-2.0)
    loss = Gpg().loss(x, totals)
    loss.backward()
    assert loss.item() == pytest.approx((2 * 0.5 * 2 - 1.5 * 2) / 3)
    assert x.logprobs.grad is not None
    assert x.logprobs.grad[0].tolist() == pytest.approx([-0.5 / 3] * 2)
    assert Gpg(aggregation="rows").loss(x, totals).item() == pytest.approx((0.5 * 2 - 1.5 * 2) / 2)


def test_alpha_counts_the_groups_that_are_in_the_mean() -> None:
    batch = make_step()  # three groups, one of them collapsed
    signal = Gpg().signal(batch)
    raw = adv.group_centered(batch.reward, batch.group, batch.scorable)
    assert torch.equal(signal.raw_advantages, raw)
    assert torch.allclose(signal.row_advantages, raw * 3 / 2)
    assert means(signal.metrics)["gpg/alpha"] == pytest.approx(3 / 2)
    assert means(signal.metrics)["gpg/useful"] == pytest.approx(2 / 3)


def test_a_group_cut_to_one_scorable_row_is_not_counted() -> None:
    batch = make_step(groups=4)
    alone = (batch.group == 1).nonzero()[1:, 0]
    scorable = batch.scorable.clone()
    scorable[alone] = False
    assert means(Gpg().signal(replace(batch, scorable=scorable)).metrics)["gpg/alpha"] == pytest.approx(3 / 2)


def test_alpha_is_one_where_all_is_useful_and_where_nothing_is() -> None:
    batch = make_step()
    nothing = replace(batch, reward=torch.ones_like(batch.reward))
    all_differ = replace(batch, reward=torch.arange(12.0, dtype=batch.reward.dtype))
    for each in (nothing, all_differ):
        assert means(Gpg().signal(each).metrics)["gpg/alpha"] == 1


def test_alpha_after_collection_is_that_of_the_groups_collected() -> None:
    groups = [make_group(flags) for flags in ([True, False], [True, True], [False, True], [False, False])]
    batch = collate(groups, parts=("accuracy",), weights=(1.0,), pad_id=0)
    known = scored(batch, old_logprobs=batch.sampling_logprobs.nan_to_num(), entropy=torch.ones(batch.mask.shape))
    assert means(Gpg().signal(known).metrics)["gpg/alpha"] == 2  # the release's figure for two of four


def test_scales_are_the_functions_of_that_name() -> None:
    batch = make_step()
    for scale, function in {"group": adv.group_normalized, "batch": adv.batch_scaled}.items():
        wanted = function(batch.reward, batch.group, batch.scorable)
        assert torch.equal(Gpg(scale=scale).signal(batch).raw_advantages, wanted)  # type: ignore[arg-type]


def test_the_exact_variant_takes_collapsed_groups_out_of_the_mean() -> None:
    batch = make_step()
    signal = Gpg(debias="tokens").signal(batch)
    collapsed = adv.collapsed(batch.reward, batch.group, batch.scorable)
    assert torch.equal(signal.keep, comparable(batch.group, batch.scorable) & ~collapsed)
    assert torch.equal(signal.row_advantages, signal.raw_advantages)


def test_both_ways_of_debiasing_agree_where_rows_are_equally_long() -> None:
    batch = make_step()
    batch = replace(batch, scorable=torch.ones_like(batch.scorable))
    mask = torch.zeros_like(batch.mask)
    mask[:, 2:5] = True
    batch = replace(batch, mask=mask)
    assert adv.collapsed(batch.reward, batch.group).sum() == 4  # one group of three
    logprobs, entropy = current(batch)
    results = [
        run_update(method, batch, method.signal(batch), logprobs, entropy, EVERY)
        for method in (Gpg(debias="groups"), Gpg(debias="tokens"))
    ]
    assert torch.allclose(results[0][1], results[1][1])
    none = Gpg(debias="none")
    loss, _, _ = run_update(none, batch, none.signal(batch), logprobs, entropy, EVERY)
    assert torch.allclose(1.5 * loss, results[0][0])


def test_prompts_are_drawn_again_up_to_a_share_and_a_bound() -> None:
    top_up = Gpg().needs.top_up
    assert top_up is not None
    assert (top_up.min_share, top_up.max_rounds, top_up.fill) == (0.6, 19, True)
    assert Gpg().useful(make_group([True, False]))
    assert not Gpg().useful(make_group([True, True]))
