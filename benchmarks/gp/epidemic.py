"""An epidemic in five age groups: how best to share a budget of prevented contacts between them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.tune.fit import fit_part, fit_parts, sum_kernel
from edge_grpo.tune.kernels import StationarySettings
from edge_grpo.tune.loop import search
from edge_grpo.tune.posterior import Part
from gp.draws import average_regret, generator, noisy, uniform

__all__ = ["GROUPS", "infected_days", "policies", "regret"]

GROUPS = ("0-4", "5-17", "18-49", "50-64", "65+")
_SHARES = (0.06, 0.16, 0.42, 0.19, 0.17)  # of the population
_CONTACTS = (  # daily contacts of a row's person with a column's people: assortative, invented for this page
    (2.2, 1.6, 3.6, 0.7, 0.5),
    (0.6, 8.5, 3.8, 0.9, 0.4),
    (0.5, 1.4, 7.4, 1.8, 0.7),
    (0.2, 0.8, 4.0, 2.8, 0.9),
    (0.2, 0.4, 1.8, 1.0, 1.7),
)
_DAYS, _STEPS_A_DAY = 365, 4
_TRANSMISSION, _INFECTIOUS_DAYS = 0.045, (6.0, 5.0, 4.5, 6.0, 8.0)
_SEED = 1e-4  # share of every group infected on day 0
_LEAST, _MOST, _BUDGET = 0.05, 0.6, 1.25
_TRAINING, _CANDIDATES, _ROUNDS = 200, 300, 50
_NOISE = 0.05  # standard deviation, as a share of each part's over policies
_KERNEL = StationarySettings(type="matern52")


def policies(count: int, chance: torch.Generator) -> Float[Tensor, "count 5"]:
    """Shares of contacts prevented in each group: each within [0.05, 0.6], 1.25 in total."""
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        drawn = uniform(chance, _LEAST, _MOST, 4 * count, len(GROUPS))
        moved = drawn + (_BUDGET - drawn.sum(1, keepdim=True)) / len(GROUPS)
        found.append(moved[((moved >= _LEAST) & (moved <= _MOST)).all(1)])
    return torch.cat(found)[:count]


def infected_days(control: Float[Tensor, "policies 5"]) -> Float[Tensor, "5 policies"]:
    r"""Person-days each group spends infected in a year, per 1,000 people of the whole population.

    .. math:: \dot S_j = -\lambda_j S_j, \qquad \dot I_j = \lambda_j S_j - I_j / d_j, \qquad
        \lambda_j = \tau (1 - u_j) \sum_k C_{jk} (1 - u_k) I_k

    where S and I are shares of a group; Euler's method, four steps per day.
    """
    contacts = torch.tensor(_CONTACTS, dtype=torch.float64)
    duration = torch.tensor(_INFECTIOUS_DAYS, dtype=torch.float64)
    infected = torch.full_like(control, _SEED)
    susceptible, total = 1 - infected, torch.zeros_like(control)
    for _ in range(_DAYS * _STEPS_A_DAY):
        force = _TRANSMISSION * (1 - control) * (((1 - control) * infected) @ contacts.T)
        fresh, well = force * susceptible / _STEPS_A_DAY, infected / duration / _STEPS_A_DAY
        susceptible, infected = susceptible - fresh, infected + fresh - well
        total = total + infected / _STEPS_A_DAY
    return 1000 * (total * torch.tensor(_SHARES, dtype=torch.float64)).T


@dataclass(frozen=True)
class Fitted:
    """Priors fitted to random policies, of the groups and of their sum, and the noise's standard deviations."""

    groups: list[Part]
    whole: list[Part]
    deviations: list[float]


@cache
def fitted() -> Fitted:
    """Fit to 200 random policies outside the candidates; each group's noise is known, the sum's follows from it."""
    control = policies(_TRAINING, generator("epidemic", "training"))
    clean = infected_days(control)
    deviations = (_NOISE * clean.std(1)).tolist()
    observe = noisy(clean, deviations, "epidemic", "training noise")
    values = torch.stack([observe(index) for index in range(_TRAINING)], dim=1)
    variances = [deviation**2 for deviation in deviations]
    kernels = [_KERNEL] * len(GROUPS)
    whole = fit_part(control, values.sum(0), kernel=sum_kernel(kernels[:1]), noise=sum(variances))
    return Fitted(fit_parts(control, values, kernels=kernels, noises=variances), [whole], deviations)


def regret(draw: int, scale: float) -> dict[str, float]:
    """Average regrets on one draw of 300 candidate policies, person-days per 1,000 people.

    Returns:
        ``parts``: D-GPUCB; ``sum``: GP-UCB with the sum of the groups' kernels; ``own``: GP-UCB with a kernel fitted
        to the sum.
    """
    known = fitted()
    candidates = policies(_CANDIDATES, generator("epidemic", "candidates", draw))
    truth = infected_days(candidates)
    start = [int(torch.randint(_CANDIDATES, (), generator=generator("epidemic", "start", draw)))]
    options: dict[str, Any] = {"start": start, "rounds": _ROUNDS, "maximize": False, "scale": scale}

    def reports() -> Callable[[int], Tensor]:
        return noisy(truth, known.deviations, "epidemic", "noise", draw)

    summed = reports()
    found = {
        "parts": search(known.groups, candidates, reports(), **options),
        "sum": search(known.groups, candidates, reports(), decomposed=False, **options),
        "own": search(known.whole, candidates, lambda index: summed(index).sum()[None], **options),
    }
    return {name: average_regret(rounds, truth.sum(0), maximize=False) for name, rounds in found.items()}
