"""Sums, means, deviations and quantiles over masked tokens, rows and groups.

A mask selects with ``torch.where``, never by multiplication, so NaN or infinity outside it cannot propagate. Group
results are returned per row: ``group_mean(values, group)[i]`` is the mean over the rows that share row ``i``'s group.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked

__all__ = [
    "group_max",
    "group_mean",
    "group_min",
    "group_size",
    "group_std",
    "group_sum",
    "masked_mean",
    "masked_quantile",
    "masked_std",
    "masked_sum",
    "row_mean",
    "row_sum",
    "where_mask",
]


@checked
def where_mask(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""The values inside the mask, 0 outside.

    .. math:: m \, ? \, x : 0

    Args:
        values: any; may be NaN or infinite outside the mask.
        mask: True where a value counts.

    Returns:
        the same shape and unit; the gradient is exactly 0 outside the mask.

    Source:
        Definition.

    Example:
        >>> where_mask(torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
        tensor([1., 0.])
    """
    return torch.where(mask, values, torch.zeros_like(values))


@checked
def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    r"""Sum of the values inside the mask.

    .. math:: \sum_{m} x

    Args:
        values: any.
        mask: True where a value counts.

    Returns:
        one number in the values' unit; 0 for an empty mask.

    Source:
        Definition.

    Example:
        >>> masked_sum(torch.tensor([1.0, 2.0, float("inf")]), torch.tensor([True, True, False]))
        tensor(3.)
    """
    return where_mask(values, mask).sum()


@checked
def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    r"""Mean of the values inside the mask.

    .. math:: \sum_{m} x \, / \max(1, |m|)

    Args:
        values: any.
        mask: True where a value counts.

    Returns:
        one number in the values' unit; 0 for an empty mask.

    Source:
        Definition; the floor of 1 is TRL's.

    Example:
        >>> masked_mean(torch.tensor([1.0, 2.0, float("nan")]), torch.tensor([True, True, False]))
        tensor(1.5000)
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


@checked
def masked_std(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    r"""Unbiased standard deviation of the values inside the mask.

    .. math:: \sqrt{\sum_m (x - \bar x)^2 / (|m| - 1)}

    Args:
        values: any.
        mask: True where a value counts.

    Returns:
        one number in the values' unit; 0 for fewer than two values.

    Source:
        Definition.

    Example:
        >>> masked_std(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        tensor(1.4142)
    """
    squares = masked_sum((where_mask(values, mask) - masked_mean(values, mask)) ** 2, mask)
    return (squares / (mask.sum() - 1).clamp(min=1)).sqrt()


@checked
def masked_quantile(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, q: float) -> Float[Tensor, ""]:
    r"""The ``q`` quantile of the values inside the mask, interpolated linearly.

    .. math:: x_{(k)} + (h - k)(x_{(k+1)} - x_{(k)}), \quad h = q (|m| - 1), \; k = \lfloor h \rfloor

    Args:
        values: any; not differentiated.
        mask: True where a value counts.
        q: between 0 (minimum) and 1 (maximum).

    Returns:
        one number in the values' unit; NaN for an empty mask.

    Source:
        Definition; same as ``torch.quantile``, which rejects more than 2**24 values.

    Example:
        >>> masked_quantile(torch.tensor([4.0, 1.0, 2.0, 9.0]), torch.tensor([True, True, True, False]), q=0.75)
        tensor(3.)
    """
    ordered = values.detach()[mask].sort().values
    if not len(ordered):
        return torch.full((), torch.nan, dtype=values.dtype, device=values.device)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)


@checked
def row_sum(values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]) -> Float[Tensor, " rows"]:
    r"""Each row's sum over its masked tokens.

    .. math:: \sum_t m_{i,t} \, x_{i,t}

    Args:
        values: any.
        mask: True where a token counts.

    Returns:
        one number per row in the values' unit; 0 for a row without tokens.

    Source:
        Definition.

    Example:
        >>> row_sum(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]]))
        tensor([1.])
    """
    return where_mask(values, mask).sum(-1)


@checked
def row_mean(values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]) -> Float[Tensor, " rows"]:
    r"""Each row's mean over its masked tokens.

    .. math:: \sum_t m_{i,t} \, x_{i,t} \, / \max(1, \sum_t m_{i,t})

    Args:
        values: any.
        mask: True where a token counts.

    Returns:
        one number per row in the values' unit; 0 for a row without tokens.

    Source:
        Definition; the floor of 1 is TRL's.

    Example:
        >>> row_mean(torch.tensor([[1.0, 2.0], [5.0, 5.0]]), torch.tensor([[True, True], [False, False]]))
        tensor([1.5000, 0.0000])
    """
    return row_sum(values, mask) / mask.sum(-1).clamp(min=1)


@checked
def group_sum(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Sum over the included rows of each row's group.

    .. math:: \sum_{j \in g(i)} x_j

    Args:
        values: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count; the others still receive their group's result.

    Returns:
        one number per row in the values' unit; 0 where no row of the group counts.

    Source:
        Definition.

    Example:
        >>> group_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([5., 2., 5.])
    """
    index = _group_index(group)
    sums = values.new_zeros(len(values)).index_add(0, index, where_mask(values, include))
    return sums[index]


@checked
def group_size(group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Number of included rows in each row's group.

    .. math:: |g(i)|

    Args:
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        one count per row.

    Source:
        Definition.

    Example:
        >>> group_size(torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([2, 1, 2])
    """
    index = _group_index(group)
    counts = torch.zeros_like(index).index_add(0, index, include.to(index.dtype))
    return counts[index]


@checked
def group_mean(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Mean over the included rows of each row's group.

    .. math:: \operatorname{mean}_{j \in g(i)} x_j

    Args:
        values: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        one number per row in the values' unit; 0 where no row of the group counts.

    Source:
        Definition.

    Example:
        >>> group_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([2.5000, 2.0000, 2.5000])
    """
    return group_sum(values, group, include) / group_size(group, include).clamp(min=1)


@checked
def group_std(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Unbiased standard deviation over the included rows of each row's group.

    .. math:: \sqrt{\sum_{j \in g(i)} (x_j - \bar x_{g(i)})^2 / (|g(i)| - 1)}

    Args:
        values: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        one number per row in the values' unit; 0 where fewer than two rows of the group count.

    Source:
        Definition.

    Example:
        >>> group_std(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([1.4142, 0.0000, 1.4142])
    """
    deviation = where_mask(values, include) - group_mean(values, group, include)
    squares = group_sum(deviation**2, group, include)
    return (squares / (group_size(group, include) - 1).clamp(min=1)).sqrt()


@checked
def group_max(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Largest value over the included rows of each row's group.

    .. math:: \max_{j \in g(i)} x_j

    Args:
        values: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        one number per row in the values' unit; -inf where no row of the group counts.

    Source:
        Definition.

    Example:
        >>> group_max(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([4., 2., 4.])
    """
    index = _group_index(group)
    lowest = torch.full_like(values, -torch.inf)
    return lowest.scatter_reduce(0, index, torch.where(include, values, lowest), "amax")[index]


@checked
def group_min(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], include: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    r"""Smallest value over the included rows of each row's group.

    .. math:: \min_{j \in g(i)} x_j

    Args:
        values: one per row.
        group: each row's group; need not be adjacent.
        include: rows that count.

    Returns:
        one number per row in the values' unit; inf where no row of the group counts.

    Source:
        Definition.

    Example:
        >>> group_min(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7]), torch.tensor([True, True, True]))
        tensor([1., 2., 1.])
    """
    return -group_max(-values, group, include)


def _group_index(group: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Groups renumbered 0, 1, ..."""
    index: Tensor = torch.unique(group, return_inverse=True)[1]
    return index
