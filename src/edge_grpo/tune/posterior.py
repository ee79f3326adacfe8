r"""Gaussian processes for a sum :math:`f(x) = \sum_j g_j(x) f_j(x)`, given its parts, the whole, or rows of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError, DataError, ShapeError
from edge_grpo.tune.kernels import dims_of

__all__ = ["Decomposed", "Gaussian", "Mixed", "Part", "Posterior", "aggregate", "checked_points"]


@dataclass(frozen=True)
class Part:
    r"""The prior of one part: :math:`f_j \sim \mathcal{GP}(m_j, k_j)`, observed with noise of variance ``noise``."""

    kernel: Any  # a GPyTorch kernel, see edge_grpo.tune.kernels.make_kernel
    mean: float = 0.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        """Reject a non-finite mean, and noise that is not above 0."""
        if not (0 < self.noise < math.inf and math.isfinite(self.mean)):
            raise ConfigError(
                f"part: got mean {self.mean:g} and noise {self.noise:g}, wanted a finite mean and a variance above 0"
            )

    def covariance(self, left: Float[Tensor, "m dims"], right: Float[Tensor, "n dims"]) -> Float[Tensor, "m n"]:
        """Prior covariances of the part between two sets of points."""
        dense: Tensor = self.kernel(left, right).to_dense()
        return dense


@dataclass(frozen=True)
class Gaussian:
    """Joint normal distribution of the latent values at some points, without observation noise."""

    mean: Float[Tensor, " points"]
    covariance: Float[Tensor, "points points"]

    @property
    def variance(self) -> Float[Tensor, " points"]:
        """Marginal variance of each point."""
        return self.covariance.diagonal()


@runtime_checkable
class Posterior(Protocol):
    """A posterior over the parts and the whole."""

    def parts_at(self, points: Float[Tensor, "points dims"]) -> list[Gaussian]:
        """Each part at the given points."""

    def whole_at(
        self, points: Float[Tensor, "points dims"], weights: Float[Tensor, "parts points"] | None = None
    ) -> Gaussian:
        """The weighted sum of the parts at the given points; None = ones."""

    @property
    def log_marginal_likelihood(self) -> Tensor:
        """Of the observations, nats."""


class _Conditioned:
    """A Gaussian vector conditioned on observations with independent noise."""

    def __init__(self, covariance: Tensor, noise: Tensor, residual: Tensor) -> None:
        self.covariance, self.noise, self.residual = covariance, noise, residual
        factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag(noise))
        if int(failed):
            raise DataError(
                f"posterior: {len(noise)} observations with noise variance {float(noise.min()):g} or more lie too "
                "close together for their kernel; raise the noise, or drop some"
            )
        self.factor = factor
        self.weights = torch.cholesky_solve(residual[:, None], self.factor)[:, 0]

    def given(self, prior_mean: Tensor | float, prior: Tensor, cross: Tensor) -> Gaussian:
        """Posterior of values with prior covariance ``prior`` and covariances ``cross`` with the observations."""
        half = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
        return Gaussian(prior_mean + cross @ self.weights, prior - half.T @ half)

    @property
    def log_likelihood(self) -> Tensor:
        size = len(self.residual)
        fit = self.residual @ self.weights
        found: Tensor = -0.5 * fit - self.factor.diagonal().log().sum() - 0.5 * size * math.log(2 * math.pi)
        return found

    @property
    def information_gain(self) -> Tensor:
        """Half of log det(I + S^-1/2 K S^-1/2), nats."""
        scale = self.noise.rsqrt()
        scaled = torch.eye(len(scale), dtype=scale.dtype) + scale[:, None] * self.covariance * scale
        gain: Tensor = torch.linalg.cholesky(scaled).diagonal().log().sum()
        return gain


class Decomposed:
    r"""Every part observed at the same points: one Gaussian process per part, and their weighted sum.

    .. math:: \mu_j = m_j + k_j^* C_j^{-1} (y_j - m_j), \qquad v_j = k_j^{**} - k_j^* C_j^{-1} k_j^{*\top}, \qquad
        C_j = K_j + \sigma_j^2 I, \qquad \operatorname{cov}(x, x') = \sum_j g_j(x)\, g_j(x') \operatorname{cov}_j(x, x')

    The parts are independent, so each one's cost depends only on its own observations.

    Args:
        parts: priors of the parts.
        points: where they were observed.
        values: the observations of each part.

    Raises:
        ShapeError: the numbers of parts, points and values do not match.
        DataError: a number is not finite, or points lie too close together for their noise.

    Source:
        Wang et al. 2021, arXiv:2107.03003 (D-GPUCB). In float64, without jitter; the authors' code first scales the
        values of each part, and its noise with them, to standard deviation 1.
    """

    def __init__(
        self, parts: Sequence[Part], points: Float[Tensor, "n dims"], values: Float[Tensor, "parts n"]
    ) -> None:
        points, values = checked_points(parts, points), values.double()
        _check(parts, points, values)
        self.parts, self.points = tuple(parts), points
        self._each = [
            _Conditioned(part.covariance(points, points), torch.full_like(own, part.noise), own - part.mean)
            for part, own in zip(parts, values, strict=True)
        ]

    def parts_at(self, points: Float[Tensor, "points dims"]) -> list[Gaussian]:
        """Each part at the given points."""
        points = checked_points(self.parts, points)
        return [
            each.given(part.mean, part.covariance(points, points), part.covariance(points, self.points))
            for part, each in zip(self.parts, self._each, strict=True)
        ]

    def whole_at(
        self, points: Float[Tensor, "points dims"], weights: Float[Tensor, "parts points"] | None = None
    ) -> Gaussian:
        """The weighted sum of the parts at the given points; None = ones."""
        points = checked_points(self.parts, points)
        own = _weights(weights, self.parts, points)
        pairs = list(zip(own, self.parts_at(points), strict=True))
        mean = torch.stack([weight * part.mean for weight, part in pairs]).sum(0)
        return Gaussian(mean, torch.stack([w[:, None] * part.covariance * w for w, part in pairs]).sum(0))

    @property
    def log_marginal_likelihood(self) -> Tensor:
        """Over all parts, nats."""
        return torch.stack([each.log_likelihood for each in self._each]).sum()

    @property
    def information_gains(self) -> list[Tensor]:
        """Of each part, nats."""
        return [each.information_gain for each in self._each]


class Mixed:
    r"""Rows that each observe a weighted sum of the parts: a single part, the whole, or anything in between.

    .. math:: C_{ab} = \sum_j w_{ja} k_j(x_a, x_b) w_{jb} + [a = b] \sum_j w_{ja}^2 \sigma_j^2, \qquad
        \operatorname{cov}(f_j(x^*), y_b) = k_j(x^*, x_b) w_{jb}

    Args:
        parts: priors of the parts.
        points: where each row was observed.
        weights: weight of each part in each row; a unit vector observes a single part.
        values: the observations.
        noise: noise variances of the rows; None = the parts' noise, summed with squared weights. With less (the noise
            of a single part, say), the proof that :class:`Decomposed` never has more variance no longer holds.

    Raises:
        ShapeError: the numbers of parts, points and values do not match.
        DataError: a number is not finite, or points lie too close together for their noise.

    Source:
        arXiv:2107.03003 for rows of the whole; mixed rows are derived here.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        points: Float[Tensor, "n dims"],
        weights: Float[Tensor, "parts n"],
        values: Float[Tensor, " values"],
        *,
        noise: Float[Tensor, " n"] | None = None,
    ) -> None:
        points, weights, values = checked_points(parts, points), weights.double(), values.double()
        _check(parts, points, weights)
        if values.shape != points.shape[:1]:
            raise ShapeError(f"posterior: {len(points)} points, but values of shape {tuple(values.shape)}")
        _check_finite(values)
        self.parts, self.points, self.weights = tuple(parts), points, weights
        pairs = list(zip(parts, weights, strict=True))
        if noise is None:
            noise = torch.stack([own**2 * part.noise for part, own in pairs]).sum(0)
        noise = noise.double()
        if noise.shape != values.shape or not bool((torch.isfinite(noise) & (noise > 0)).all()):
            raise ShapeError(
                f"posterior: got noise of shape {tuple(noise.shape)} and minimum {float(noise.min()):g}, wanted a "
                f"variance above 0 for each of {len(values)} rows (a row of zero weights has none)"
            )
        covariance = torch.stack([own[:, None] * part.covariance(points, points) * own for part, own in pairs]).sum(0)
        mean = torch.stack([own * part.mean for part, own in pairs]).sum(0)
        self.noise = noise
        self._rows = _Conditioned(covariance, noise, values - mean)

    def parts_at(self, points: Float[Tensor, "points dims"]) -> list[Gaussian]:
        """Each part at the given points."""
        points = checked_points(self.parts, points)
        return [
            self._rows.given(part.mean, part.covariance(points, points), part.covariance(points, self.points) * own)
            for part, own in zip(self.parts, self.weights, strict=True)
        ]

    def whole_at(
        self, points: Float[Tensor, "points dims"], weights: Float[Tensor, "parts points"] | None = None
    ) -> Gaussian:
        """The weighted sum of the parts at the given points; None = ones."""
        points = checked_points(self.parts, points)
        at_points = _weights(weights, self.parts, points)
        triples = list(zip(self.parts, self.weights, at_points, strict=True))
        cross = [g[:, None] * part.covariance(points, self.points) * own for part, own, g in triples]
        prior = [g[:, None] * part.covariance(points, points) * g for part, _, g in triples]
        mean = torch.stack([g * part.mean for part, _, g in triples]).sum(0)
        return self._rows.given(mean, torch.stack(prior).sum(0), torch.stack(cross).sum(0))

    @property
    def log_marginal_likelihood(self) -> Tensor:
        """Over all rows, nats."""
        return self._rows.log_likelihood

    @property
    def information_gain(self) -> Tensor:
        """Of the rows about the whole, nats."""
        return self._rows.information_gain


def aggregate(
    parts: Sequence[Part],
    points: Float[Tensor, "n dims"],
    values: Float[Tensor, " n"],
    *,
    weights: Float[Tensor, "parts n"] | None = None,
    noise: Float[Tensor, " n"] | None = None,
) -> Mixed:
    r"""The ordinary Gaussian process of the whole, with the kernel its parts imply.

    .. math:: k(x, x') = \sum_j g_j(x)\, k_j(x, x')\, g_j(x'), \qquad \sigma^2(x) = \sum_j g_j(x)^2 \sigma_j^2

    Args:
        parts: priors of the parts.
        points: where the whole was observed.
        values: the observations of the whole.
        weights: :math:`g_j` at the points; None = ones.
        noise: as in :class:`Mixed`.

    Raises:
        ShapeError: the numbers of parts, points and values do not match.
        DataError: a number is not finite, or points lie too close together for their noise.

    Source:
        arXiv:2107.03003, the baseline: the same priors, but only the sum is observed. The noise is exact here; the
        authors' code uses an upper bound, the largest part's noise times the sum of the largest squared weights.
    """
    points = checked_points(parts, points)
    return Mixed(parts, points, _weights(weights, parts, points), values, noise=noise)


def _weights(weights: Tensor | None, parts: Sequence[Part], points: Tensor) -> Tensor:
    if weights is None:
        return torch.ones(len(parts), len(points), dtype=torch.float64)
    weights = weights.double()
    _check(parts, points, weights)
    return weights


def _check(parts: Sequence[Part], points: Tensor, rows: Tensor) -> None:
    if rows.shape != (len(parts), len(points)):
        raise ShapeError(
            f"posterior: {len(parts)} parts and {len(points)} points need numbers of shape "
            f"{(len(parts), len(points))}, got {tuple(rows.shape)}"
        )
    _check_finite(rows)


def checked_points(parts: Sequence[Part], points: Tensor) -> Tensor:
    """Points in float64, checked to be rows with the dimensions of the parts."""
    if not parts:
        raise ShapeError("posterior: got no parts; give at least one prior")
    points = points.double()
    dims = dims_of(parts[0].kernel)
    if points.ndim != 2 or (dims is not None and points.shape[1] != dims):
        hint = "; for one dimension write points[:, None]" if points.ndim == 1 else ""
        wanted = "dims" if dims is None else dims
        raise ShapeError(f"posterior: got points of shape {tuple(points.shape)}, wanted (points, {wanted}){hint}")
    _check_finite(points)
    return points


def _check_finite(numbers: Tensor) -> None:
    bad = int((~torch.isfinite(numbers)).sum())
    if bad:
        raise DataError(f"posterior: {bad} of {numbers.numel()} numbers are not finite; drop their points")
