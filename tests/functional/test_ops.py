import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.functional import ops

NAN = float("nan")


def test_row_and_masked_sums_ignore_values_outside_the_mask() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [4.0, torch.inf, -torch.inf]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert ops.masked_sum(values, mask).item() == 7
    assert ops.masked_mean(values, mask).item() == 7 / 3
    assert ops.row_sum(values, mask).tolist() == [3, 4]
    assert ops.row_mean(values, mask).tolist() == [1.5, 4]
    ops.row_mean(values, mask).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.5, 0], [1, 0, 0]]


def test_an_empty_mask_gives_zero() -> None:
    values, mask = torch.full((2, 2), NAN), torch.zeros(2, 2, dtype=torch.bool)
    assert ops.masked_mean(values, mask) == 0
    assert ops.masked_std(values, mask) == 0
    assert ops.row_mean(values, mask).tolist() == [0, 0]
    assert ops.masked_quantile(values, mask, q=0.5).isnan()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.floats(0, 1))
def test_quantiles_match_torch(values: list[float], q: float) -> None:
    numbers = torch.tensor([*values, NAN], dtype=torch.float64)
    mask = torch.tensor([True] * len(values) + [False])
    wanted = torch.quantile(numbers[:-1], q)
    assert torch.allclose(ops.masked_quantile(numbers, mask, q=q), wanted, rtol=0, atol=1e-9)


def test_groups_need_not_be_adjacent() -> None:
    values = torch.tensor([1.0, 10.0, 3.0, 20.0, NAN])
    group = torch.tensor([5, -2, 5, -2, 5])
    include = torch.tensor([True, True, True, True, False])
    assert ops.group_sum(values, group, include).tolist() == [4, 30, 4, 30, 4]
    assert ops.group_mean(values, group, include).tolist() == [2, 15, 2, 15, 2]
    assert ops.group_size(group, include).tolist() == [2, 2, 2, 2, 2]
    assert ops.group_max(values, group, include).tolist() == [3, 20, 3, 20, 3]
    assert ops.group_min(values, group, include).tolist() == [1, 10, 1, 10, 1]
    root = 2**0.5
    assert torch.allclose(ops.group_std(values, group, include), torch.tensor([root, 5 * root, root, 5 * root, root]))


def test_deviation_is_unbiased_and_zero_for_one_value() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    everything = torch.ones(3, dtype=torch.bool)
    assert torch.allclose(ops.masked_std(values, everything), values.std())
    assert torch.allclose(ops.group_std(values, torch.zeros(3).long(), everything), values.std().expand(3))
    assert ops.group_std(values, torch.arange(3), everything).tolist() == [0, 0, 0]


def test_a_group_without_included_rows_has_neutral_values() -> None:
    values, group, nothing = torch.tensor([1.0, 2.0]), torch.zeros(2).long(), torch.zeros(2, dtype=torch.bool)
    assert ops.group_mean(values, group, nothing).tolist() == [0, 0]
    assert ops.group_max(values, group, nothing).tolist() == [-torch.inf] * 2
    assert ops.group_min(values, group, nothing).tolist() == [torch.inf] * 2
