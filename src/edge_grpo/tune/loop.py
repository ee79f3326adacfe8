"""D-GPUCB and GP-UCB over finitely many candidates: repeatedly evaluate the one with the highest confidence bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.acquisition import beta_finite, confidence_bound
from edge_grpo.tune.composition import Composition, plug_in_mean
from edge_grpo.tune.posterior import Decomposed, Gaussian, Part, Posterior, aggregate

__all__ = ["Round", "search", "search_composed"]

Belief = Callable[[list[int], Tensor], tuple[Tensor, Tensor]]
"""Maps the candidates evaluated and each part's values, [parts, n], to mean and width at every candidate."""


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, the squared width, the candidate evaluated, and its bound.

    When minimising, the bound is the negated lower bound.
    """

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
    r"""Search for the best candidate of :math:`\sum_j g_j f_j` by observing its parts.

    .. math:: x_t = \arg\max_x \mu_{t-1}(x) + \sqrt{\beta_t}\,\sigma_{t-1}(x)

    Args:
        parts: priors; held fixed, as the guarantees on the bound require.
        candidates: points that can be evaluated.
        observe: noisy values of all parts at a candidate; called once per evaluation, in order.
        start: indices evaluated before the first round.
        rounds: evaluations chosen by the bound.
        decomposed: True is D-GPUCB, one posterior per part; False is GP-UCB, which sees only the sum of the values.
        weights: :math:`g_j` at the candidates; None = ones.
        maximize: False searches for the minimum.
        delta: probability that the bound fails.
        scale: divisor of the squared width.

    Returns:
        the rounds, in order.

    Raises:
        ConfigError: ``start`` is empty, or ``start``, ``rounds``, ``delta`` or ``scale`` is out of range.
        ShapeError: ``observe`` or ``weights`` does not match the parts.
        DataError: a value is not finite, or candidates lie too close together for their noise.

    Source:
        arXiv:2107.03003, D-GPUCB. Ties go to the first candidate.
    """
    _check(candidates, start, rounds)
    weights = torch.ones(len(parts), len(candidates), dtype=torch.float64) if weights is None else weights

    def belief(looked: list[int], seen: Tensor) -> tuple[Tensor, Tensor]:
        posterior: Posterior
        if decomposed:
            posterior = Decomposed(parts, candidates[looked], seen)
        else:
            own = weights[:, looked]
            posterior = aggregate(parts, candidates[looked], (own * seen).sum(0), weights=own)
        whole = posterior.whole_at(candidates, weights)
        return whole.mean, whole.variance.clamp(min=0).sqrt()

    betas = [beta_finite(len(candidates), step, delta=delta, scale=scale) for step in range(1, rounds + 1)]
    return _search(belief, observe, start, betas, maximize=maximize)


def search_composed(
    parts: Sequence[Part],
    composition: Composition,
    width: Callable[[Sequence[Gaussian]], Tensor],
    candidates: Float[Tensor, "candidates dims"],
    observe: Callable[[int], Float[Tensor, " parts"]],
    *,
    start: Sequence[int],
    rounds: int,
    union: int = 1,
    maximize: bool = True,
    delta: float = 0.05,
    scale: float = 1.0,
) -> list[Round]:
    r"""Search for the best candidate of a nonlinear whole, :math:`g(f_1, \dots, f_J)`, by observing its parts.

    .. math:: x_t = \arg\max_x g(\mu_1(x), \dots, \mu_J(x)) + \sqrt{\beta_t}\,w(x)

    Args:
        parts: priors.
        composition: :math:`g`.
        width: :math:`w` of the parts' posteriors: a safe width or the delta method of
            :mod:`edge_grpo.tune.composition`.
        candidates: points that can be evaluated.
        observe: noisy values of all parts at a candidate; called once per evaluation, in order.
        start: indices evaluated before the first round.
        rounds: evaluations chosen by the bound.
        union: parts for which the bound must hold at once: J for a safe width, 1 otherwise.
        maximize: False searches for the minimum.
        delta: probability that the bound fails.
        scale: divisor of the squared width.

    Returns:
        the rounds, in order.

    Raises:
        ConfigError: ``start`` is empty, or ``start``, ``rounds``, ``delta`` or ``scale`` is out of range.
        ShapeError: ``observe`` does not match the parts.
        DataError: a value is not finite, or candidates lie too close together for their noise.

    Source:
        arXiv:2107.03003, the generalised algorithm; widths from :mod:`edge_grpo.tune.composition`.
    """
    _check(candidates, start, rounds)

    def belief(looked: list[int], seen: Tensor) -> tuple[Tensor, Tensor]:
        own = Decomposed(parts, candidates[looked], seen).parts_at(candidates)
        return plug_in_mean(composition, own), width(own)

    sizes = range(1, rounds + 1)
    betas = [beta_finite(len(candidates), step, delta=delta, parts=union, scale=scale) for step in sizes]
    return _search(belief, observe, start, betas, maximize=maximize)


def _check(candidates: Tensor, start: Sequence[int], rounds: int) -> None:
    if rounds < 0 or not start or not all(0 <= index < len(candidates) for index in start):
        raise ConfigError(
            f"search: got start {list(start)} and {rounds} rounds, wanted at least one index into {len(candidates)} "
            "candidates, and at least 0 rounds"
        )


def _search(
    belief: Belief, observe: Callable[[int], Tensor], start: Sequence[int], betas: Sequence[float], *, maximize: bool
) -> list[Round]:
    """Evaluate the start, then the candidate with the highest bound, once per width."""
    looked = list(start)
    values = [observe(index).double() for index in looked]
    found = []
    for step, beta in enumerate(betas, start=1):
        mean, width = belief(looked, torch.stack(values, dim=1))
        bound = confidence_bound(mean, width, beta, maximize=maximize)
        chosen = int(bound.argmax())
        found.append(Round(step, beta, chosen, float(bound[chosen])))
        looked.append(chosen)
        values.append(observe(chosen).double())
    return found
