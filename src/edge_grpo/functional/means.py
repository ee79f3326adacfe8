"""From per-token values to one number: the means that distinguish the family's losses.

All divide by totals of the whole optimizer update, given as arguments, never by a micro-batch's own counts, so the sum
over micro-batches is the same however the rows are split. With ``n_i`` tokens in row ``i``, ``R`` rows, ``N`` tokens
and a budget of ``L`` tokens per row, a token of row ``i`` has weight ``1/(R n_i)`` (rows), ``1/N`` (tokens),
``1/(R L)`` (budget) or ``1/R`` (row sums).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import masked_sum, row_mean

__all__ = ["mean_of_row_sums", "mean_over_budget", "mean_over_rows", "mean_over_tokens"]


@checked
def mean_over_rows(
    values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], *, rows: float
) -> Float[Tensor, ""]:
    r"""This micro-batch's share of the mean over rows of each row's mean over tokens (GRPO).

    .. math:: \frac{1}{R} \sum_i \frac{1}{|m_i|} \sum_t m_{i,t} \, x_{i,t}

    Args:
        values: one per token.
        mask: tokens that count.
        rows: number of rows :math:`R` of the whole optimizer update.

    Returns:
        one number in the values' unit; a row without tokens adds 0.

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3. TRL 1.16.0, ``loss_type="grpo"``: same.

    Example:
        >>> import torch
        >>> values, mask = torch.tensor([[1.0, 3.0], [4.0, 9.0]]), torch.tensor([[True, True], [True, False]])
        >>> mean_over_rows(values, mask, rows=2)
        tensor(3.)
    """
    return row_mean(values, mask).sum() / max(rows, 1.0)


@checked
def mean_over_tokens(
    values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], *, tokens: float
) -> Float[Tensor, ""]:
    r"""This micro-batch's share of the mean over all tokens of the update (DAPO): longer rows weigh more.

    .. math:: \frac{1}{N} \sum_{i,t} m_{i,t} \, x_{i,t}

    Args:
        values: one per token.
        mask: tokens that count.
        tokens: number of masked tokens :math:`N` of the whole optimizer update.

    Returns:
        one number in the values' unit.

    Source:
        Yu et al. 2025, DAPO, arXiv:2503.14476, eq. 8. TRL 1.16.0, ``loss_type="dapo"``: same.

    Example:
        >>> import torch
        >>> values, mask = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])
        >>> mean_over_tokens(values, mask, tokens=3)
        tensor(3.)
    """
    return masked_sum(values, mask) / max(tokens, 1.0)


@checked
def mean_over_budget(
    values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], *, rows: float, max_new_tokens: int
) -> Float[Tensor, ""]:
    r"""This micro-batch's share of the sum over tokens, divided by a constant independent of row lengths (Dr. GRPO).

    .. math:: \frac{1}{R \, L} \sum_{i,t} m_{i,t} \, x_{i,t}

    Args:
        values: one per token.
        mask: tokens that count.
        rows: number of rows :math:`R` of the whole optimizer update.
        max_new_tokens: the completion budget :math:`L`, tokens.

    Returns:
        one number in the values' unit.

    Source:
        Liu et al. 2025, Dr. GRPO, arXiv:2503.20783, section 3.2 and its listing. TRL 1.16.0, ``loss_type="dr_grpo"``:
        same.

    Example:
        >>> import torch
        >>> mean_over_budget(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2).bool(), rows=1, max_new_tokens=8)
        tensor(0.5000)
    """
    return masked_sum(values, mask) / (max(rows, 1.0) * max_new_tokens)


@checked
def mean_of_row_sums(
    values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], *, rows: float
) -> Float[Tensor, ""]:
    r"""This micro-batch's share of the mean over rows of each row's sum over tokens (LUSPO).

    .. math:: \frac{1}{R} \sum_i \sum_t m_{i,t} \, x_{i,t}

    Args:
        values: one per token.
        mask: tokens that count.
        rows: number of rows :math:`R` of the whole optimizer update.

    Returns:
        one number, the values' unit times tokens.

    Source:
        LUSPO, 2026, arXiv:2602.05261. TRL 1.16.0, ``loss_type="luspo"``: same.

    Example:
        >>> import torch
        >>> values, mask = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])
        >>> mean_of_row_sums(values, mask, rows=2)
        tensor(4.5000)
    """
    return masked_sum(values, mask) / max(rows, 1.0)
