from dataclasses import replace

import pytest
import torch
from methods.steps import by_hand, make_group, make_step
from torch import Tensor

from edge_grpo.base.tensors import Scored
from edge_grpo.methods.reinforce import Reinforce
from edge_grpo.methods.reinforce_rej import ReinforceRej


def step(right: list[bool]) -> Scored:
    """A step whose groups of two rows are right as given; all rows scorable."""
    batch = make_step(groups=len(right) // 2, size=2)
    order = batch.group.argsort(stable=True)
    correct = torch.zeros_like(batch.correct).index_put((order,), torch.tensor(right))
    return replace(batch, correct=correct, scorable=torch.ones_like(correct))


def kept_groups(batch: Scored, kept: Tensor) -> list[int]:
    return sorted(batch.group[kept].unique().tolist())


@pytest.mark.parametrize(("remove", "groups"), [("both", [2]), ("all_right", [1, 2]), ("all_wrong", [0, 2])])
def test_the_filters_of_the_ablation(remove: str, groups: list[int]) -> None:
    batch = step([True, True, False, False, True, False])
    method = ReinforceRej(remove=remove)  # type: ignore[arg-type]
    assert kept_groups(batch, method.signal(batch).keep) == groups
    pairs = [[True, True], [False, False], [True, False]]
    assert [number for number, right in enumerate(pairs) if method.useful(make_group(right))] == groups


def test_what_is_left_keeps_its_raw_reward() -> None:
    batch = step([True, True, False, False, True, False])
    signal = ReinforceRej().signal(batch)
    assert torch.equal(signal.row_advantages[signal.keep], (2.0 * batch.correct - 1).double()[signal.keep])


def test_remove_both_and_std() -> None:
    batch = step([True, True, False, False, True, False])
    signal = ReinforceRej(scale=True).signal(batch)
    assert signal.row_advantages[signal.keep].abs().tolist() == pytest.approx([1 / (2**0.5 + 1e-6)] * 2)


def test_centring_alone_rejects_the_same_groups_by_itself() -> None:
    batch = make_step()
    centred, rejected = Reinforce(center=True).signal(batch), ReinforceRej(center=True).signal(batch)
    assert torch.equal(centred.row_advantages, rejected.row_advantages)
    assert centred.keep.sum() > rejected.keep.sum()


def test_with_rewards_of_one_and_zero_wrong_answers_have_no_weight() -> None:
    batch = step([True, True, False, False, True, False])
    released = ReinforceRej(reward_values="run", rejected="zero_advantage")
    signal = released.signal(replace(batch, reward=batch.correct.double()))
    assert signal.keep.all()
    assert torch.equal(signal.row_advantages != 0, batch.correct & (batch.group == 2))


def test_the_loss_is_that_of_reinforce() -> None:
    x, totals = by_hand([[1.5, 1.0], [9.0]], [1.0, -1.0])
    assert torch.equal(ReinforceRej(delta=3.0).loss(x, totals), Reinforce(delta=3.0).loss(x, totals))
