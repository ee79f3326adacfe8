import pytest
import torch

from edge_grpo.functional.advantages import collapsed, group_normalized
from edge_grpo.functional.shaping import entropy_driven_advantage, no_positive_credit, relative_entropy

NAN = float("nan")


def test_relative_entropy_matches_hand_calculation() -> None:
    entropy = torch.tensor([[0.2, 0.4, NAN], [0.9, NAN, NAN], [1.0, 1.0, 1.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    relative = relative_entropy(entropy, mask, torch.tensor([0, 0, 1]))
    assert torch.allclose(relative, torch.tensor([0.5, 1.5, 1.0]))
    assert not relative.requires_grad


def test_relative_entropy_averages_to_one_over_counted_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    entropy, mask = torch.rand(6, 5, generator=generator), torch.rand(6, 5, generator=generator) < 0.7
    mask[4] = False
    group, keep = torch.tensor([0, 1, 0, 1, 0, 0]), torch.tensor([True, True, True, True, True, False])
    relative = relative_entropy(entropy, mask, group, keep)
    assert relative[[0, 2]].mean().item() == pytest.approx(1)
    assert relative[[1, 3]].mean().item() == pytest.approx(1)
    assert relative[[4, 5]].tolist() == [1, 1]


def test_a_group_without_entropy_is_left_unchanged() -> None:
    relative = relative_entropy(torch.zeros(2, 3), torch.ones(2, 3).bool(), torch.zeros(2).long())
    assert relative.tolist() == [1, 1]


def test_the_clamp_is_applied_after_the_mean() -> None:
    entropy = torch.tensor([[0.0], [1.0], [1.0]])
    relative = relative_entropy(entropy, torch.ones(3, 1).bool(), torch.zeros(3).long())
    assert torch.allclose(relative, torch.tensor([0.0, 1.5, 1.5]))
    got = entropy_driven_advantage(torch.tensor([1.0, 3.0, -3.0]), relative)
    assert torch.allclose(got, torch.tensor([10.0, 2.0, -2.0]))
    high = entropy_driven_advantage(torch.tensor([1.0]), torch.tensor([99.0]), clamp_high=2.0)
    assert high.item() == 0.5


def test_shaping_cannot_revive_a_collapsed_group() -> None:
    rewards, group = torch.tensor([0.1, 0.1, 0.1]), torch.zeros(3).long()
    raw = group_normalized(rewards, group)
    relative = relative_entropy(torch.rand(3, 4), torch.ones(3, 4).bool(), group)
    assert collapsed(rewards, group).all()
    assert entropy_driven_advantage(raw, relative).tolist() == [0, 0, 0]


def test_chosen_tokens_get_no_positive_credit() -> None:
    advantages = torch.tensor([[2.0, -2.0], [2.0, -2.0]])
    where = torch.tensor([[True, True], [False, False]])
    assert no_positive_credit(advantages, where).tolist() == [[0, -2], [2, -2]]
