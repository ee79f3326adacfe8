"""Preference losses: raise the chosen of two answers to a prompt over the rejected one.

Find the rows of each pair (:func:`pair_rows`), take the log-probabilities of whole answers and their :func:`margin`
over the reference, then apply a loss (:func:`sigmoid_loss`, :func:`robust_loss`, :func:`hinge_loss`,
:func:`ipo_loss`), each one number per pair.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import group_size

__all__ = [
    "hinge_loss",
    "implicit_reward",
    "ipo_loss",
    "is_paired",
    "margin",
    "pair_rows",
    "robust_loss",
    "sigmoid_loss",
]


@checked
def is_paired(
    group: Int[Tensor, " rows"], chosen: Bool[Tensor, " rows"], rejected: Bool[Tensor, " rows"]
) -> Bool[Tensor, " rows"]:
    r"""Rows that belong to a pair: their group has exactly one chosen and one rejected row.

    .. math:: |\{j \in g(i) : j \text{ chosen}\}| = |\{j \in g(i) : j \text{ rejected}\}| = 1

    Args:
        group: each row's group; need not be adjacent.
        chosen: the preferred answers.
        rejected: the others; a row may be neither.

    Returns:
        one flag per row; False for rows that are neither chosen nor rejected.

    Source:
        Definition.

    Example:
        >>> chosen = torch.tensor([True, False, True])
        >>> is_paired(torch.tensor([7, 7, 8]), chosen, ~chosen)
        tensor([ True,  True, False])
    """
    return (group_size(group, chosen) == 1) & (group_size(group, rejected) == 1) & (chosen | rejected)


@checked
def pair_rows(
    group: Int[Tensor, " rows"], chosen: Bool[Tensor, " rows"], rejected: Bool[Tensor, " rows"]
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    r"""Row numbers of the chosen and the rejected answer of every pair.

    .. math:: (w_p, l_p), \quad g(w_p) = g(l_p)

    Args:
        group: each row's group; need not be adjacent.
        chosen: one row in each group that is a pair.
        rejected: another row in the same groups.

    Returns:
        two tensors ordered by group number; pair p is the p-th entry of both.

    Raises:
        ShapeError: a group does not have exactly one of each.

    Source:
        Definition.

    Example:
        >>> chosen = torch.tensor([False, True, True, False])
        >>> pair_rows(torch.tensor([7, 3, 7, 3]), chosen, ~chosen)
        (tensor([1, 2]), tensor([3, 0]))
    """
    first, second = (rows.nonzero().squeeze(-1) for rows in (chosen, rejected))
    first, second = (rows[group[rows].argsort(stable=True)] for rows in (first, second))
    names = group[first]
    if not torch.equal(names, group[second]) or len(names.unique()) != len(names):
        raise ShapeError("every pair needs one chosen and one rejected row in an unsplit group of its own")
    return first, second


@checked
def margin(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    ref_chosen: Float[Tensor, " pairs"],
    ref_rejected: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    r"""How much more strongly the policy prefers the chosen answer than the reference does.

    .. math:: D = (\log \pi(y_w) - \log \pi(y_l)) - (\log \pi_{ref}(y_w) - \log \pi_{ref}(y_l))

    Args:
        chosen: log-probability of the chosen answer under the policy, nats, with gradient.
        rejected: the same for the rejected answer.
        ref_chosen: of the chosen answer under the reference, nats.
        ref_rejected: of the rejected answer under the reference, nats.

    Returns:
        nats; 0 where policy and reference are equal.

    Source:
        Rafailov et al. 2023, DPO, arXiv:2305.18290, eq. 7.

    Example:
        >>> margin(*torch.tensor([[-1.0], [-4.0], [-2.0], [-3.0]]))
        tensor([2.])
    """
    return (chosen - rejected) - (ref_chosen - ref_rejected).detach()


@checked
def sigmoid_loss(
    margin: Float[Tensor, " pairs"], *, beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, " pairs"]:
    r"""Negative log-likelihood of the preferences under Bradley-Terry, with the policy's implicit reward (DPO).

    .. math:: -(1 - \epsilon) \log \sigma(\beta D) - \epsilon \log \sigma(-\beta D)

    Args:
        margin: :func:`margin`, nats.
        beta: cost per nat of divergence from the reference, reward units.
        label_smoothing: share :math:`\epsilon` of pairs assumed to be labelled the wrong way round.

    Returns:
        nats, above 0; log 2 at margin 0.

    Source:
        Rafailov et al. 2023, DPO, arXiv:2305.18290, eq. 7; smoothing (cDPO): Mitchell 2023, "A note on DPO with noisy
        preferences". RPO's official code, ``loss_type=sigmoid``: same.

    Example:
        >>> sigmoid_loss(torch.tensor([0.0, 10.0]), beta=0.1)
        tensor([0.6931, 0.3133])
    """
    return -(1 - label_smoothing) * logsigmoid(beta * margin) - label_smoothing * logsigmoid(-beta * margin)


@checked
def robust_loss(margin: Float[Tensor, " pairs"], *, beta: float, label_smoothing: float) -> Float[Tensor, " pairs"]:
    r"""Like :func:`sigmoid_loss`, but unbiased when that share of labels is flipped.

    .. math:: \frac{-(1 - \epsilon) \log \sigma(\beta D) + \epsilon \log \sigma(-\beta D)}{1 - 2 \epsilon}

    Args:
        margin: :func:`margin`, nats.
        beta: cost per nat of divergence from the reference, reward units.
        label_smoothing: share :math:`\epsilon` of flipped labels, below 1/2.

    Returns:
        nats, any sign; log 2 at margin 0. Equal to :func:`sigmoid_loss` at :math:`\epsilon = 0`.

    Source:
        Chowdhury et al. 2024, "Provably Robust DPO", arXiv:2403.00409. RPO's official code, ``loss_type=robust``: same.

    Example:
        >>> robust_loss(torch.tensor([0.0, 10.0]), beta=0.1, label_smoothing=0.1)
        tensor([0.6931, 0.1883])
    """
    flipped = -(1 - label_smoothing) * logsigmoid(beta * margin) + label_smoothing * logsigmoid(-beta * margin)
    return flipped / (1 - 2 * label_smoothing)


@checked
def hinge_loss(margin: Float[Tensor, " pairs"], *, beta: float) -> Float[Tensor, " pairs"]:
    r"""Zero, gradient included, once the chosen answer is ahead by 1 / beta nats.

    .. math:: [1 - \beta D]_+

    Args:
        margin: :func:`margin`, nats.
        beta: cost per nat of divergence from the reference, reward units.

    Returns:
        reward units, 0 or more; 1 at margin 0.

    Source:
        Zhao et al. 2023, SLiC-HF, arXiv:2305.10425; Liu et al. 2023, RSO, arXiv:2309.06657. RPO's official code,
        ``loss_type=hinge``: same, but not differentiable there together with a likelihood term.

    Example:
        >>> hinge_loss(torch.tensor([0.0, 10.0, 30.0]), beta=0.05)
        tensor([1.0000, 0.5000, 0.0000])
    """
    return (1 - beta * margin).relu()


@checked
def ipo_loss(margin: Float[Tensor, " pairs"], *, beta: float) -> Float[Tensor, " pairs"]:
    r"""Pulls the margin to a finite value, so deterministic preferences do not drive it to infinity.

    .. math:: (D - 1 / (2 \beta))^2

    Args:
        margin: :func:`margin`, nats.
        beta: strength of the regularisation, per nat.

    Returns:
        square nats, 0 or more.

    Source:
        Azar et al. 2023, IPO, arXiv:2310.12036, eq. 17. RPO's official code, ``loss_type=ipo``: same, with log-probs
        averaged over tokens.

    Example:
        >>> ipo_loss(torch.tensor([0.0, 5.0]), beta=0.1)
        tensor([25.,  0.])
    """
    return (margin - 1 / (2 * beta)) ** 2


@checked
def implicit_reward(
    logprob: Float[Tensor, " answers"], ref_logprob: Float[Tensor, " answers"], *, beta: float
) -> Float[Tensor, " answers"]:
    r"""The reward for which the policy would be optimal, up to a constant per prompt.

    .. math:: \beta (\log \pi(y) - \log \pi_{ref}(y))

    Args:
        logprob: of the answer under the policy, nats.
        ref_logprob: of the answer under the reference, nats.
        beta: cost per nat of divergence from the reference, reward units.

    Returns:
        reward units. Detached.

    Source:
        Rafailov et al. 2023, DPO, arXiv:2305.18290, eq. 5.

    Example:
        >>> implicit_reward(torch.tensor([-1.0]), torch.tensor([-3.0]), beta=0.1)
        tensor([0.2000])
    """
    return beta * (logprob - ref_logprob).detach()
