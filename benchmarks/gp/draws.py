"""Seeded random numbers, sample paths, noisy observers, and the regret of a search."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.rng import derive_seed
from edge_grpo.tune.loop import Round

__all__ = ["average_regret", "generator", "noisy", "sample_path", "uniform"]

_JITTER = 1e-9  # as a share of the variance: without it a grid's covariance matrix has no Cholesky factor


def generator(*words: int | str) -> torch.Generator:
    """A generator seeded by a path of words."""
    return torch.Generator().manual_seed(derive_seed("tune", *words) % 2**63)


def uniform(chance: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers, float64."""
    return low + (high - low) * torch.rand(shape, generator=chance, dtype=torch.float64)


def sample_path(covariance: Float[Tensor, "n n"], chance: torch.Generator) -> Float[Tensor, " n"]:
    """One draw of a zero-mean Gaussian vector."""
    jitter = _JITTER * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    normal = torch.randn(len(covariance), generator=chance, dtype=covariance.dtype)
    drawn: Tensor = torch.linalg.cholesky(covariance + jitter) @ normal
    return drawn


def noisy(
    values: Float[Tensor, "parts candidates"], deviations: Sequence[float], *words: int | str
) -> Callable[[int], Float[Tensor, " parts"]]:
    """An observer of the values. Its i-th observation has the same noise for every model, wherever it looks."""
    chance = generator(*words)
    scale = torch.tensor(list(deviations), dtype=values.dtype)

    def observe(index: int) -> Tensor:
        seen: Tensor = values[:, index] + scale * torch.randn(len(values), generator=chance, dtype=values.dtype)
        return seen

    return observe


def average_regret(found: Sequence[Round], whole: Float[Tensor, " candidates"], *, maximize: bool = True) -> float:
    r"""Distance of the chosen candidates from the best one, averaged over rounds.

    .. math:: \frac1T \sum_t \big(\max_x f(x) - f(x_t)\big)
    """
    signed = whole if maximize else -whole
    return float((signed.max() - signed[[each.chosen for each in found]]).mean())
