"""Covariance functions by name: a part's kernel as settings, and the GPyTorch module built from them."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.settings import settings

__all__ = ["KernelSettings", "StationarySettings", "SumSettings", "dims_of", "make_kernel"]

Positive = Annotated[float, Field(gt=0)]
_SMOOTHNESS = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}


@settings
class StationarySettings:
    r"""A stationary kernel of the scaled distance :math:`r = |(x - x') / \ell|`.

    .. math:: v e^{-r^2/2}, \quad v e^{-r}, \quad v (1 + \sqrt3 r) e^{-\sqrt3 r}, \quad
        v (1 + \sqrt5 r + 5 r^2 / 3) e^{-\sqrt5 r}, \quad v (1 + r^2 / 2\alpha)^{-\alpha}

    for ``rbf``, ``matern12``, ``matern32``, ``matern52`` and ``rq`` (rational quadratic). ``lengthscale`` is one number
    for all dimensions, or one per dimension; ``variance`` is :math:`v`; only ``rq`` has ``alpha``.
    """

    type: Literal["rbf", "matern12", "matern32", "matern52", "rq"] = "rbf"
    variance: Positive = 1.0
    lengthscale: Positive | tuple[Positive, ...] = 0.2
    alpha: Positive = 1.0


@settings
class SumSettings:
    """A sum of kernels."""

    type: Literal["sum"] = "sum"
    terms: tuple[StationarySettings, ...] = Field(min_length=1)


KernelSettings = Annotated[StationarySettings | SumSettings, Field(discriminator="type")]


def make_kernel(kernel: StationarySettings | SumSettings, *, dims: int) -> Any:
    """The GPyTorch kernel for these settings, in float64; its hyperparameters can be fitted.

    Args:
        kernel: the settings.
        dims: dimensions of the inputs.

    Raises:
        ConfigError: the number of lengthscales is neither 1 nor ``dims``, or the 'tune' extra is not installed.
    """
    kernels = _gpytorch_kernels()
    if isinstance(kernel, SumSettings):
        return kernels.AdditiveKernel(*(make_kernel(term, dims=dims) for term in kernel.terms))
    scales = kernel.lengthscale if isinstance(kernel.lengthscale, tuple) else (kernel.lengthscale,) * dims
    if len(scales) != dims:
        raise ConfigError(f"lengthscale: got {len(scales)} for {dims} dimensions; give {dims}, or one number")
    if kernel.type == "rbf":
        base = kernels.RBFKernel(ard_num_dims=dims)
    elif kernel.type == "rq":
        base = kernels.RQKernel(ard_num_dims=dims)
    else:
        base = kernels.MaternKernel(nu=_SMOOTHNESS[kernel.type], ard_num_dims=dims)
    scaled = kernels.ScaleKernel(base).double()
    base.lengthscale, scaled.outputscale = _double(scales), _double(kernel.variance)
    if kernel.type == "rq":
        base.alpha = _double(kernel.alpha)
    return scaled


def dims_of(kernel: Any) -> int | None:
    """Input dimensions of a kernel from :func:`make_kernel`; None if it does not record them."""
    while True:
        inner = getattr(kernel, "base_kernel", None) or next(iter(getattr(kernel, "kernels", ())), None)
        if inner is None:
            dims: int | None = getattr(kernel, "ard_num_dims", None)
            return dims
        kernel = inner


def _gpytorch_kernels() -> Any:
    try:
        import gpytorch.kernels  # noqa: PLC0415 - in the extra
    except ImportError:
        raise ConfigError("tuning needs the 'tune' extra: pip install 'edge-grpo[tune]'") from None
    return gpytorch.kernels


def _double(value: float | tuple[float, ...]) -> Tensor:
    """A float64 tensor; GPyTorch would round a plain float to float32."""
    return torch.tensor(value, dtype=torch.float64)
