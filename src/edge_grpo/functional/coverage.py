"""Coverage of several answers (pass@k), and whether training makes rare right answers likelier (uplift)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional._arguments import checked

__all__ = ["block_pass_at_k", "pass_at_k", "uplift_rate"]


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Probability that k of n answers, drawn without replacement, include a right one.

    .. math:: 1 - \binom{n - c}{k} / \binom{n}{k}

    Args:
        n: number of answers to a problem.
        c: how many of them are right.
        k: how many are drawn, at most n.

    Returns:
        0 to 1; 1 where fewer than k answers are wrong.

    Raises:
        ShapeError: there are fewer than k answers.

    Source:
        Chen et al. 2021, arXiv:2107.03374, eq. 1.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if k > n:
        raise ShapeError(f"pass@{k} needs at least {k} answers per problem, there are {n}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


@checked
def block_pass_at_k(correct: Bool[Tensor, "problems samples"], *, k: int) -> Float[Tensor, " blocks"]:
    r"""Share of problems with a right answer in each consecutive block of k answers.

    .. math:: p_b = \frac{1}{P} \sum_i \Big[\max_{bk \le j < (b + 1) k} c_{i,j}\Big]

    Args:
        correct: right or wrong, in sampling order.
        k: answers per block; those after the last full block are ignored.

    Returns:
        shares, 0 to 1; their mean estimates pass@k, their spread its sampling noise.

    Raises:
        ShapeError: there is no full block.

    Source:
        The figures of He et al. 2025, arXiv:2506.02355 (notebook of the official code): mean and sample deviation of
        these shares. :func:`pass_at_k` uses the same answers with less noise.

    Example:
        >>> block_pass_at_k(torch.tensor([[True, False, False, False], [False, True, True, False]]), k=2).tolist()
        [1.0, 0.5]
    """
    problems, samples = correct.shape
    blocks = samples // k
    if not blocks:
        raise ShapeError(f"blocks of {k} need at least {k} answers per problem, there are {samples}")
    return correct[:, : blocks * k].reshape(problems, blocks, k).any(-1).to(torch.float64).mean(0)


@checked
def uplift_rate(
    correct: Bool[Tensor, "problems samples"],
    before: Float[Tensor, "problems samples"],
    after: Float[Tensor, "problems samples"],
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    r"""How often training made right answers likelier and wrong ones less likely, by their initial rank.

    .. math::
        u_k = \frac{\sum_i [c_{i,(k)} \wedge l'_{i,(k)} > l_{i,(k)}]}{\sum_i [c_{i,(k)}]}, \qquad
        d_k = \frac{\sum_i [\neg c_{i,(k)} \wedge l'_{i,(k)} < l_{i,(k)}]}{\sum_i [\neg c_{i,(k)}]}

    where :math:`(k)` is a problem's k-th likeliest answer before training.

    Args:
        correct: right or wrong.
        before: summed log-probability :math:`l` of each answer under the starting policy, nats.
        after: the same :math:`l'` under the trained policy.

    Returns:
        two rates per rank, likeliest first; NaN where no problem has such an answer at that rank. Flat rates mean no
        rank bias; a rate of right answers that falls with rank means that rare ones are left behind.

    Source:
        He et al. 2025, arXiv:2506.02355 (notebook of the official code).

    Example:
        >>> before, after = torch.tensor([[-1.0, -5.0]]), torch.tensor([[-0.5, -6.0]])
        >>> uplift_rate(torch.tensor([[True, True]]), before, after)[0]
        tensor([1., 0.])
    """
    order = before.argsort(dim=-1, descending=True, stable=True)
    right, change = correct.gather(-1, order), (after - before).gather(-1, order)
    rose = (right & (change > 0)).sum(0).to(before.dtype) / right.sum(0)
    fell = (~right & (change < 0)).sum(0).to(before.dtype) / (~right).sum(0)
    return rose, fell
