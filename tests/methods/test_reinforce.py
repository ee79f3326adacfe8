import pytest
import torch
from methods.steps import by_hand, make_step

from edge_grpo.functional.advantages import group_centered, group_normalized
from edge_grpo.methods.reinforce import Reinforce


def test_mean_over_rows_of_clipped_rewards() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5], [9.0]], [1.0, -1.0, -1.0])
    assert Reinforce().loss(x, totals).item() == pytest.approx((-1.1 + 0.8 + 9.0) / 3)
    assert Reinforce(delta=3.0).loss(x, totals).item() == pytest.approx((-1.1 + 0.8 + 3.0) / 3)
    assert Reinforce(aggregation="tokens").loss(x, totals).item() == pytest.approx((-2.2 + 0.8 + 9.0) / 4)


def test_every_scorable_row_has_its_signed_reward() -> None:
    batch = make_step()
    signal = Reinforce().signal(batch)
    assert torch.equal(signal.keep, batch.scorable)
    assert torch.equal(signal.row_advantages, torch.where(batch.scorable, 2.0 * batch.correct - 1, 0.0).double())


def test_mean_zero_and_grpo_as_arms_of_the_ablation() -> None:
    batch = make_step()
    rewards = torch.where(batch.scorable, 2.0 * batch.correct - 1, 0.0).double()
    centred = Reinforce(center=True).signal(batch).row_advantages
    both = Reinforce(center=True, scale=True).signal(batch).row_advantages
    assert torch.equal(centred, group_centered(rewards, batch.group, batch.scorable))
    assert torch.allclose(both, group_normalized(rewards, batch.group, batch.scorable, eps=1e-6))


def test_four_updates_a_step_by_default() -> None:
    assert Reinforce.train_defaults == {"mini_batches": 4}
