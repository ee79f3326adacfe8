from dataclasses import replace

import pytest
import torch
from methods.steps import by_hand, make_group, make_step

from edge_grpo.base.metrics import means
from edge_grpo.base.records import Group
from edge_grpo.base.tensors import Scored
from edge_grpo.functional.advantages import group_normalized
from edge_grpo.functional.ops import row_mean, row_sum
from edge_grpo.functional.ranks import unlikeliness_reward
from edge_grpo.methods.unlikeliness import Unlikeliness


def easy_group(right: int, size: int) -> Scored:
    """A step of one group, its first rows right and likelier than the others."""
    batch = make_step(groups=1, size=size)
    rows = torch.arange(size)
    likelihood = -1.0 - rows.double() / size
    return replace(
        batch,
        correct=rows < right,
        scorable=torch.ones(size, dtype=torch.bool),
        old_logprobs=torch.where(batch.mask, likelihood[:, None], 0.0),
    )


@pytest.mark.parametrize("likelihood", ["mean", "sum"])
def test_ranks_go_by_the_mean_or_the_sum_of_log_probs(likelihood: str) -> None:
    batch = make_step()
    scores = (row_mean if likelihood == "mean" else row_sum)(batch.old_logprobs, batch.mask)
    shaped = unlikeliness_reward(batch.correct.double(), scores, batch.group, batch.scorable, penalty=0.25)
    wanted = group_normalized(shaped, batch.group, batch.scorable, eps=1e-6)
    signal = Unlikeliness(likelihood=likelihood).signal(batch)  # type: ignore[arg-type]
    assert torch.equal(signal.row_advantages, wanted)


def test_without_a_penalty_it_is_grpo_on_right_and_wrong() -> None:
    batch = make_step()
    signal = Unlikeliness(penalty=0.0).signal(batch)
    wanted = group_normalized(batch.correct.double(), batch.group, batch.scorable, eps=1e-6)
    assert torch.equal(signal.row_advantages, wanted)
    assert torch.equal(signal.raw_advantages, wanted)


def test_the_runs_own_rewards_can_be_shaped() -> None:
    batch = make_step()
    wanted = group_normalized(batch.reward, batch.group, batch.scorable, eps=1e-6)
    assert torch.equal(Unlikeliness(penalty=0.0, reward_values="run").signal(batch).row_advantages, wanted)


def test_what_is_added_to_the_deviation() -> None:
    batch = make_step()
    for eps in (1e-9, 0.5):
        wanted = group_normalized(batch.correct.double(), batch.group, batch.scorable, eps=eps)
        signal = Unlikeliness(penalty=0.0, std_eps=eps).signal(batch)
        assert torch.equal(signal.row_advantages, wanted)
        assert torch.equal(signal.raw_advantages, wanted)
    assert Unlikeliness().std_eps == 1e-6


def test_among_right_answers_the_unlikely_are_pushed_more() -> None:
    advantages = Unlikeliness().signal(easy_group(4, 8)).row_advantages
    assert (advantages[:4].diff() > 0).all()
    assert (advantages[:4] > 0).all()


@pytest.mark.parametrize(("right", "negative"), [(28, 0), (30, 8), (31, 12)])
def test_in_very_easy_groups_the_likeliest_right_answers_are_pushed_down(right: int, negative: int) -> None:
    signal = Unlikeliness().signal(easy_group(right, 32))
    assert int((signal.row_advantages[:right] < 0).sum()) == negative
    assert means(signal.metrics)["unlikeliness/right_but_negative"] == pytest.approx(negative / right)


# --- the filter -----------------------------------------------------------------------------------------------------


def rights(groups: list[Group]) -> list[list[bool]]:
    return [[row.grade.correct for row in group.rows] for group in groups]


GROUPS = [make_group(r) for r in ([True, False, True], [True, True, True], [False, False, False])]


def test_groups_of_equal_rewards_are_dropped() -> None:
    assert rights(Unlikeliness().arrange(GROUPS)) == [[True, False, True]]
    assert rights(Unlikeliness(drop_uniform=False).arrange(GROUPS)) == rights(GROUPS)
    assert [Unlikeliness().useful(group) for group in GROUPS] == [True, False, False]


def test_collapse_is_about_the_rewards_that_are_shaped() -> None:
    group = make_group([False] * 4)
    rewards = [replace(row, grade=replace(row.grade, reward=float(i))) for i, row in enumerate(group.rows)]
    shaped = replace(group, rows=tuple(rewards))
    assert Unlikeliness(reward_values="correct").compared(shaped).collapsed
    assert not Unlikeliness(reward_values="run").compared(shaped).collapsed


def test_wrong_rows_go_and_then_at_most_so_many_stay() -> None:
    baseline = Unlikeliness(drop_uniform=False, wrong_rows="dropped")
    assert rights(baseline.arrange(GROUPS)) == [[True, True], [True, True, True]]
    assert rights(replace(baseline, max_rows=1).arrange(GROUPS)) == [[True], [True]]
    assert rights(replace(baseline, drop_uniform=True).arrange(GROUPS)) == [[True, True]]
    assert rights(Unlikeliness(max_rows=2).arrange(GROUPS)) == [[True, False]]


def test_without_wrong_rows_the_reward_itself_is_the_advantage() -> None:
    batch = make_step()
    signal = Unlikeliness(penalty=0.0, wrong_rows="dropped").signal(batch)
    assert torch.equal(signal.keep, batch.scorable & batch.correct)
    assert (signal.row_advantages[signal.keep] == 1).all()


def test_a_row_left_alone_takes_no_part() -> None:
    batch = easy_group(1, 1)
    signal = Unlikeliness().signal(batch)
    assert not signal.keep.any()
    assert (signal.row_advantages == 0).all()


# --- the loss -------------------------------------------------------------------------------------------------------


def test_mean_over_tokens_with_kl() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    x = replace(x, ref_logprobs=x.logprobs.detach() + 1)
    policy = (-1.2 - 1.0 + 2 * 0.8) / 3
    kl = torch.tensor(1.0).exp().item() - 2
    assert Unlikeliness().loss(x, totals).item() == pytest.approx(policy + 0.1 * kl, rel=1e-6)
    rows = Unlikeliness(aggregation="rows", beta=0.0).loss(x, totals)
    assert rows.item() == pytest.approx((-2.2 / 2 + 1.6) / 2)


def test_the_kl_estimate_is_bounded() -> None:
    x, totals = by_hand([[1.0]], [0.0])
    x = replace(x, ref_logprobs=x.logprobs.detach() + 5)
    assert Unlikeliness(beta=1.0).loss(x, totals).item() == pytest.approx(10)
    assert Unlikeliness(beta=1.0, kl_max=None).loss(x, totals).item() == pytest.approx(
        torch.tensor(5.0).exp().item() - 6
    )


def test_two_passes_and_a_reference_by_default() -> None:
    assert Unlikeliness.train_defaults == {"passes": 2}
    assert Unlikeliness().needs.reference
    assert not Unlikeliness(beta=0.0).needs.reference
