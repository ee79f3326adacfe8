"""D-GPUCB and GP-UCB over a finite set of candidates: look where the upper confidence bound is highest, and again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.tune.acquisition import beta_finite, confidence_bound
from edge_grpo.tune.posterior import Decomposed, Part, Posterior, aggregate

__all__ = ["Round", "search"]


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, the width, the candidate looked at, and the bound that it had."""

    step: int
    beta: float
    chosen: int
    bound: float


def search(
    parts: Sequence[Part],
    candidates: Float[Tensor, "candidates dims"],
    observe: Callable[[int], Float[Tensor, " parts"]],
    *,
    start: Sequence[int],
    rounds: int,
    decomposed: bool = True,
    weights: Float[Tensor, "parts candidates"] | None = None,
    maximize: bool = True,
    delta: float = 0.05,
    scale: float = 1.0,
) -> list[Round]:
    r"""Search the best candidate of :math:`\sum_j g_j f_j` by looking at its parts.

    .. math:: x_t = \arg\max_x \mu_{t-1}(x) + \sqrt{\beta_t}\,\sigma_{t-1}(x)

    Args:
        parts: priors; fixed, so that what is proved of the bound holds.
        candidates: where one may look.
        observe: noisy values of all parts at a candidate; called once a look, in order.
        start: looked at before the first round.
        rounds: how often the bound decides.
        decomposed: D-GPUCB, a posterior of each part; False is GP-UCB, which sees the sum of the same values alone.
        weights: :math:`g_j` at the candidates; None = ones.
        maximize: False searches for the least value.
        delta: chance that the bound fails.
        scale: by which the squared width is divided.

    Source:
        arXiv:2107.03003, algorithm 2 (D-GPUCB); ties go to the first candidate.
    """
    weights = torch.ones(len(parts), len(candidates), dtype=candidates.dtype) if weights is None else weights
    looked = list(start)
    values = [observe(index) for index in looked]
    found = []
    for step in range(1, rounds + 1):
        points, seen = candidates[looked], torch.stack(values, dim=1)
        posterior: Posterior
        if decomposed:
            posterior = Decomposed(parts, points, seen)
        else:
            own = weights[:, looked]
            posterior = aggregate(parts, points, (own * seen).sum(0), weights=own)
        whole = posterior.whole_at(candidates, weights)
        beta = beta_finite(len(candidates), step, delta=delta, scale=scale)
        bound = confidence_bound(whole.mean, whole.variance.clamp(min=0).sqrt(), beta, maximize=maximize)
        chosen = int(bound.argmax())
        found.append(Round(step, beta, chosen, float(bound[chosen])))
        looked.append(chosen)
        values.append(observe(chosen))
    return found
