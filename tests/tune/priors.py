"""Priors and draws shared by several test files."""

from typing import Literal

import torch

from edge_grpo.tune.kernels import StationarySettings, make_kernel
from edge_grpo.tune.posterior import Part

Kind = Literal["rbf", "matern12", "matern32", "matern52", "rq"]
KINDS: tuple[Kind, ...] = ("rbf", "matern12", "matern32", "matern52", "rq")


def part(
    kind: Kind = "rbf",
    *,
    lengthscale: float = 0.2,
    variance: float = 1.0,
    mean: float = 0.0,
    noise: float = 0.01,
    dims: int = 1,
) -> Part:
    """A part with a fixed prior."""
    kernel = make_kernel(StationarySettings(type=kind, lengthscale=lengthscale, variance=variance), dims=dims)
    return Part(kernel.requires_grad_(False), mean, noise)


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
