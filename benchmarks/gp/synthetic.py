"""Draws from known priors: variance, error and regret when seeing the parts and when seeing only their sum."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from edge_grpo.tune.fit import PriorSettings, fit_part, fit_parts, make_part
from edge_grpo.tune.kernels import KernelSettings, StationarySettings, SumSettings
from edge_grpo.tune.loop import search
from edge_grpo.tune.posterior import Decomposed, Part, aggregate
from gp.draws import average_regret, generator, noisy, sample_path, uniform

__all__ = ["CASES", "COUNTS", "FITTED", "fitted", "parts_of", "regression", "regret"]

CASES = {
    "heterogeneous": "RBF with lengthscale 0.3, and Matern 3/2 with lengthscale 0.03",
    "near": "RBF with lengthscales 0.10 and 0.13",
    "identical": "RBF with lengthscale 0.1, twice",
    "random5": "five random sums of RBF and 0.5 to 0.7 Matern, lengthscales 0.02 to 0.15, drawn anew for each draw",
    "weighted": "heterogeneous, with weights cos(3x) and 1 - 2x that depend on the point",
    "proportional": "one RBF with lengthscale 0.1, in parts of variance (and noise) 1, 2 and 0.5 times",
}
COUNTS = (3, 5, 10, 20, 40)
FITTED = (10, 20, 40)
_GRID, _NOISE, _ROUNDS = 200, 0.01, 60


def parts_of(case: str, draw: int) -> list[Part]:
    """The priors of a case; for ``random5``, those of a draw."""
    kernels: list[KernelSettings]
    factors = [1.0]
    if case in ("heterogeneous", "weighted"):
        kernels = [StationarySettings(lengthscale=0.3), StationarySettings(type="matern32", lengthscale=0.03)]
    elif case == "near":
        kernels = [StationarySettings(lengthscale=0.10), StationarySettings(lengthscale=0.13)]
    elif case == "identical":
        kernels = [StationarySettings(lengthscale=0.1)] * 2
    elif case == "proportional":
        factors = [1.0, 2.0, 0.5]
        kernels = [StationarySettings(lengthscale=0.1, variance=factor) for factor in factors]
    else:
        chance = generator("kernels", case, draw)
        kernels = [_random_kernel(chance) for _ in range(5)]
    noises = [_NOISE * factor for factor in factors] if len(factors) > 1 else [_NOISE] * len(kernels)
    settings = [PriorSettings(kernel=k, noise=n) for k, n in zip(kernels, noises, strict=True)]
    return [make_part(prior, dims=1) for prior in settings]


def regression(case: str, draw: int) -> dict[str, float]:
    """Both models on one draw, after each number of observations.

    Returns:
        for n observations: ``parts_n`` and ``sum_n``, root mean squared errors of the whole on the grid; ``least_n``
        and ``most_n``, the smallest and largest variance from the sum minus that from the parts; ``mean_n``, the
        largest distance between the two means.
    """
    parts, grid, truth, weights = _draw(case, draw)
    whole = (weights * truth).sum(0)
    found: dict[str, float] = {}
    for count, looked, seen in _observations(case, draw, COUNTS):
        own = weights[:, looked]
        fine = Decomposed(parts, grid[looked], seen).whole_at(grid, weights)
        coarse = aggregate(parts, grid[looked], (own * seen).sum(0), weights=own).whole_at(grid, weights)
        gain = coarse.variance - fine.variance
        found |= {
            f"parts_{count}": _error(fine.mean, whole),
            f"sum_{count}": _error(coarse.mean, whole),
            f"least_{count}": float(gain.min()),
            f"most_{count}": float(gain.max()),
            f"mean_{count}": float((fine.mean - coarse.mean).abs().max()),
        }
    return found


def fitted(case: str, draw: int, counts: Sequence[int] = FITTED) -> dict[str, float]:
    """Like :func:`regression`, but with Matern 5/2 priors fitted to the observations, as `edge-grpo tune` does.

    Returns:
        for each n in ``counts``: ``parts_n`` and ``sum_n``, root mean squared errors of the whole on the grid.
    """
    _, grid, truth, weights = _draw(case, draw)
    whole = (weights * truth).sum(0)
    found: dict[str, float] = {}
    for count, looked, seen in _observations(case, draw, counts):
        points, summed = grid[looked], (weights[:, looked] * seen).sum(0)
        fine = Decomposed(fit_parts(points, seen), points, seen).whole_at(grid, weights)
        coarse = Decomposed([fit_part(points, summed)], points, summed[None]).whole_at(grid)
        found |= {f"parts_{count}": _error(fine.mean, whole), f"sum_{count}": _error(coarse.mean, whole)}
    return found


def regret(case: str, draw: int, scale: float) -> dict[str, float]:
    """Average regrets of D-GPUCB and GP-UCB on one draw, with the same function, first point and noise."""
    parts, grid, truth, weights = _draw(case, draw)
    start = [int(torch.randint(_GRID, (), generator=generator("start", case, draw)))]
    found = {}
    for name, decomposed in (("parts", True), ("sum", False)):
        rounds = search(
            parts,
            grid,
            noisy(truth, [part.noise**0.5 for part in parts], "noise", case, draw),
            start=start,
            rounds=_ROUNDS,
            decomposed=decomposed,
            weights=weights,
            scale=scale,
        )
        found[name] = average_regret(rounds, (weights * truth).sum(0))
    return found


def _observations(case: str, draw: int, counts: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each count, that many noisy observations in a fixed order: the count, grid indices, and the parts' values."""
    parts, _, truth, _ = _draw(case, draw)
    order = torch.randperm(_GRID, generator=generator("points", case, draw))[: max(counts)]
    observe = noisy(truth, [part.noise**0.5 for part in parts], "noise", case, draw)
    values = torch.stack([observe(int(index)) for index in order], dim=1)
    yield from ((count, order[:count], values[:, :count]) for count in counts)


def _draw(case: str, draw: int) -> tuple[list[Part], Tensor, Tensor, Tensor]:
    """Priors, the grid, the parts' values on it, and their weights."""
    parts, grid = parts_of(case, draw), torch.linspace(0, 1, _GRID, dtype=torch.float64)[:, None]
    chance = generator("function", case, draw)
    truth = torch.stack([sample_path(part.covariance(grid, grid), chance) for part in parts])
    weights = torch.ones_like(truth)
    if case == "weighted":
        weights = torch.stack([torch.cos(3 * grid[:, 0]), 1 - 2 * grid[:, 0]])
    return parts, grid, truth, weights


def _random_kernel(chance: torch.Generator) -> SumSettings:
    smooth, variance = int(torch.randint(3, (), generator=chance)), float(uniform(chance, 0.5, 0.7))
    long, short = uniform(chance, 0.02, 0.15, 2).tolist()
    kinds: tuple[Literal["matern12", "matern32", "matern52"], ...] = ("matern12", "matern32", "matern52")
    rough = StationarySettings(type=kinds[smooth], lengthscale=short, variance=variance)
    return SumSettings(terms=(StationarySettings(lengthscale=long), rough))


def _error(mean: Tensor, truth: Tensor) -> float:
    return float((mean - truth).square().mean().sqrt())
