import torch

from edge_grpo.functional.filters import comparable, high_entropy, near_policy

NAN = float("nan")


def test_comparable_needs_a_second_scorable_row() -> None:
    got = comparable(torch.tensor([0, 1, 0, 1, 2]), torch.tensor([True, True, True, False, True]))
    assert got.tolist() == [True, False, True, False, False]


def test_near_policy_drops_only_negative_advantages_far_away() -> None:
    advantages = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, 0.5]])
    sampling = torch.full((4, 2), -1.0)
    now = torch.tensor([[-2.0, -2.0], [-9.0, -9.0], [-1.2, -1.2], [-9.0, -9.0]])
    keep = near_policy(advantages, now, sampling, torch.ones(4, 2).bool(), threshold=0.5)
    assert keep.tolist() == [[False, False], [True, True], [True, True], [False, True]]


def test_near_policy_counts_unknown_tokens_as_no_drift() -> None:
    sampling, now = torch.tensor([[NAN, -1.0]]), torch.tensor([[-9.0, -1.8]])
    keep = near_policy(-torch.ones(1, 2), now, sampling, torch.ones(1, 2).bool(), threshold=0.5)
    assert keep.all()


def test_near_policy_ignores_padding() -> None:
    now = torch.tensor([[-1.0, NAN]])
    keep = near_policy(
        torch.tensor([[-1.0, NAN]]), now, torch.tensor([[-1.0, 5.0]]), torch.tensor([[True, False]]), threshold=0.0
    )
    assert keep[0, 0]


def test_high_entropy_keeps_the_top_share_of_masked_tokens() -> None:
    entropy = torch.tensor([[0.1, 0.4, NAN], [0.2, 0.3, 9.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    assert high_entropy(entropy, mask, top=0.5).tolist() == [[False, True, False], [False, True, False]]
    assert torch.equal(high_entropy(entropy, mask, top=1.0), mask)


def test_an_empty_mask_has_no_high_entropy_tokens() -> None:
    assert not high_entropy(torch.rand(2, 2), torch.zeros(2, 2).bool(), top=0.2).any()
