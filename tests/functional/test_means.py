import torch

from edge_grpo.functional.means import mean_of_row_sums, mean_over_budget, mean_over_rows, mean_over_tokens

VALUES = torch.tensor([[1.0, 3.0, torch.nan], [6.0, torch.inf, 0.0], [torch.nan, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def test_means_match_hand_calculations() -> None:
    assert mean_over_rows(VALUES, MASK, rows=3).item() == (2 + 6 + 0) / 3
    assert mean_over_tokens(VALUES, MASK, tokens=3).item() == 10 / 3
    assert mean_over_budget(VALUES, MASK, rows=2, max_new_tokens=10).item() == 0.5
    assert mean_of_row_sums(VALUES, MASK, rows=2).item() == 5


def test_means_divide_by_the_given_totals() -> None:
    shares = [mean_over_rows(VALUES[i : i + 1], MASK[i : i + 1], rows=3) for i in range(3)]
    assert torch.allclose(sum(shares[1:], shares[0]), mean_over_rows(VALUES, MASK, rows=3))


def test_an_empty_update_gives_zero() -> None:
    empty = torch.zeros_like(MASK)
    for got in (
        mean_over_rows(VALUES, empty, rows=0),
        mean_over_tokens(VALUES, empty, tokens=0),
        mean_over_budget(VALUES, empty, rows=0, max_new_tokens=5),
        mean_of_row_sums(VALUES, empty, rows=0),
    ):
        assert got == 0
