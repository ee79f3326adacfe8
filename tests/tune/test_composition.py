"""Nonlinear wholes: safe widths are valid, and the delta method is exact for linear compositions."""

import math

import pytest
import torch
from tune.priors import draw, part

from edge_grpo.base.errors import ConfigError, ShapeError
from edge_grpo.tune.composition import (
    delta_width,
    exact_product,
    jacobian,
    plug_in_mean,
    safe_width,
    safe_width_cauchy,
    unsafe_width,
)
from edge_grpo.tune.posterior import Decomposed, Gaussian


def parts(seed: int = 0) -> list[Gaussian]:
    priors = [part("rbf", lengthscale=0.3), part("matern52", lengthscale=0.15, variance=0.5)]
    return Decomposed(priors, draw(seed, 5, 1), draw(seed + 1, 2, 5)).parts_at(draw(seed + 2, 8, 1))


def test_a_linear_composition_is_the_weighted_sum() -> None:
    own = parts()
    linear = lambda f: 2 * f[0] - f[1]  # noqa: E731
    assert torch.allclose(plug_in_mean(linear, own), 2 * own[0].mean - own[1].mean)
    assert torch.equal(jacobian(linear, own), torch.tensor([[2.0, -1.0]] * 8, dtype=torch.float64))
    exact = (4 * own[0].variance + own[1].variance).sqrt()
    torch.testing.assert_close(delta_width(linear, own), exact)
    torch.testing.assert_close(unsafe_width(own, [2.0, 1.0]), exact)


def test_safe_widths_lie_between_the_unsafe_and_the_cauchy_schwarz_width() -> None:
    own, bounds = parts(), [2.0, 2.5]
    assert (unsafe_width(own, bounds) <= safe_width(own, bounds) + 1e-12).all()
    assert (safe_width(own, bounds) <= safe_width_cauchy(own, bounds) + 1e-12).all()


def test_a_composition_with_bounded_slopes_stays_within_the_safe_width() -> None:
    own, bounds = parts(3), [1.0, 2.0]
    composition = lambda f: torch.sin(f[0]) + 2 * torch.cos(f[1])  # noqa: E731
    for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        moved = torch.stack([one.mean + s * one.variance.sqrt() for s, one in zip(sign, own, strict=True)])
        change = (composition(moved) - plug_in_mean(composition, own)).abs()
        assert (change <= safe_width(own, bounds) + 1e-12).all()


def test_the_moments_of_a_product_match_sampling() -> None:
    one, two = (
        Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))
        for mean, variance in ((1.5, 0.4), (-0.5, 0.9))
    )
    draws = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    product = (1.5 + 0.4**0.5 * draws[0]) * (-0.5 + 0.9**0.5 * draws[1])
    mean, variance = exact_product(one, two)
    assert abs(float(product.mean() - mean)) < 0.01
    assert abs(float(product.var() - variance)) < 0.02


def test_a_composition_must_return_one_number_per_point() -> None:
    for call in (plug_in_mean, jacobian, delta_width):
        with pytest.raises(ShapeError, match=r"got shape \(2, 8\) from \(2, 8\), wanted \(8,\): one number per point"):
            call(lambda f: f, parts())


def test_every_part_needs_a_finite_bound() -> None:
    for width in (safe_width, safe_width_cauchy, unsafe_width):
        for wrong in (-1.0, math.nan, math.inf):
            with pytest.raises(ConfigError, match="wanted finite numbers of at least 0"):
                width(parts(), [1.0, wrong])
        with pytest.raises(ShapeError, match="got 1 bounds for 2 parts; give one per part"):
            width(parts(), [1.0])
