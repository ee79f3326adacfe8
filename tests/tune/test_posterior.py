"""Posteriors of the parts and the whole: the proven properties hold for every draw."""

import math

import pytest
import torch
from tune.priors import KINDS, draw, part

from edge_grpo.base.errors import ConfigError, DataError, ShapeError
from edge_grpo.tune.posterior import Decomposed, Mixed, Part, aggregate, checked_points


def problem(
    seed: int, *, parts: int = 3, points: int = 6, at: int = 9, dims: int = 2
) -> tuple[list[Part], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Different priors, observations of each part, weights that depend on the point, and where to predict."""
    numbers = draw(seed, parts, 3)
    priors = [
        part(
            KINDS[(seed + j) % len(KINDS)],
            lengthscale=0.05 + float(own[0]),
            variance=0.2 + float(own[1]),
            mean=float(own[2]) - 0.5,
            noise=0.01 + 0.1 * float(own[2]),
            dims=dims,
        )
        for j, own in enumerate(numbers)
    ]
    weights = 2 * draw(seed + 1, parts, points + at) - 0.7
    spots = draw(seed + 2, points + at, dims)
    values = 2 * draw(seed + 3, parts, points) - 1
    return priors, spots[:points], values, weights[:, :points], spots[points:], weights[:, points:]


@pytest.mark.parametrize("seed", range(12))
def test_observing_the_parts_never_leaves_more_variance(seed: int) -> None:
    priors, points, values, weights, at, to = problem(seed)
    fine = Decomposed(priors, points, values).whole_at(at, to)
    coarse = aggregate(priors, points, (weights * values).sum(0), weights=weights).whole_at(at, to)
    assert float(torch.linalg.eigvalsh(coarse.covariance - fine.covariance).min()) >= -1e-12
    assert float((coarse.variance - fine.variance).max()) > 1e-6


def test_identical_parts_bring_no_gain() -> None:
    priors = [part(lengthscale=0.3, noise=0.02)] * 3
    points, at, values = draw(0, 7, 1), draw(1, 20, 1), draw(2, 3, 7)
    fine = Decomposed(priors, points, values).whole_at(at)
    coarse = aggregate(priors, points, values.sum(0)).whole_at(at)
    torch.testing.assert_close(fine.mean, coarse.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(fine.covariance, coarse.covariance, rtol=0, atol=1e-12)


def test_too_little_noise_for_the_whole_breaks_the_dominance() -> None:
    priors = [part(lengthscale=0.5, noise=0.3), part(lengthscale=0.45, noise=0.3)]
    points, at, values = draw(0, 8, 1), draw(1, 6, 1), draw(2, 2, 8)
    fine = Decomposed(priors, points, values).whole_at(at)
    wrong = aggregate(priors, points, values.sum(0), noise=torch.full((8,), 0.3, dtype=torch.float64)).whole_at(at)
    assert float((wrong.variance - fine.variance).min()) < -0.01


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_single_parts_equal_the_decomposed_model(seed: int) -> None:
    priors, points, values, _, at, to = problem(seed)
    units = torch.eye(3, dtype=torch.float64).repeat_interleave(len(points), dim=1)
    rows = Mixed(priors, points.repeat(3, 1), units, values.flatten())
    fine = Decomposed(priors, points, values)
    for one, two in zip(rows.parts_at(at), fine.parts_at(at), strict=True):
        torch.testing.assert_close(one.mean, two.mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(one.covariance, two.covariance, rtol=0, atol=1e-11)
    torch.testing.assert_close(rows.whole_at(at, to).mean, fine.whole_at(at, to).mean, rtol=0, atol=1e-11)
    assert float(rows.log_marginal_likelihood) == pytest.approx(float(fine.log_marginal_likelihood), abs=1e-9)
    assert float(rows.information_gain) == pytest.approx(sum(map(float, fine.information_gains)), abs=1e-9)


def test_the_parts_are_independent_of_each_other() -> None:
    priors, points, values, _, at, _ = problem(5)
    alone = Decomposed(priors[:1], points, values[:1]).parts_at(at)[0]
    among = Decomposed(priors, points, values).parts_at(at)[0]
    assert torch.equal(alone.mean, among.mean)
    assert torch.equal(alone.covariance, among.covariance)


def test_the_order_of_rows_does_not_matter() -> None:
    priors, points, values, weights, at, to = problem(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for model in (
        lambda p, v, _: Decomposed(priors, p, v),
        lambda p, v, w: aggregate(priors, p, (w * v).sum(0), weights=w),
    ):
        one = model(points, values, weights).whole_at(at, to)
        two = model(points[order], values[:, order], weights[:, order]).whole_at(at, to)
        torch.testing.assert_close(one.mean, two.mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(one.covariance, two.covariance, rtol=0, atol=1e-11)


def test_float32_inputs_are_computed_in_float64() -> None:
    priors, points, values, weights, at, to = problem(8)
    single = [numbers.float() for numbers in (points, values, weights, at, to)]
    as_double = [numbers.double() for numbers in single]
    for points, values, weights, at, to in (single, as_double):
        fine = Decomposed(priors, points, values)
        coarse = aggregate(priors, points, (weights.double() * values).sum(0), weights=weights)
        found = [fine.whole_at(at, to), fine.whole_at(at), coarse.whole_at(at, to), fine.parts_at(at)[0]]
        found += [coarse.whole_at(at), coarse.parts_at(at)[1]]
        if points is single[0]:
            first = found
    for one, two in zip(first, found, strict=True):
        assert one.mean.dtype == torch.float64
        assert torch.equal(one.mean, two.mean)
        assert torch.equal(one.covariance, two.covariance)


def test_non_finite_values_and_missing_noise_are_rejected() -> None:
    priors, points, values, weights, *_ = problem(9)
    values[1, 2] = math.nan
    with pytest.raises(DataError, match="1 of 18 numbers are not finite; drop their points"):
        Decomposed(priors, points, values)
    with pytest.raises(DataError, match="1 of 6 numbers are not finite"):
        Mixed(priors, points, weights, values[1])
    smooth = [part(lengthscale=5.0, variance=1e6, noise=1e-12)]
    close = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    with pytest.raises(DataError, match="40 observations with noise variance 1e-12 or more lie too close together"):
        Decomposed(smooth, close, close.T)
    for wrong in ({"noise": 0.0}, {"noise": math.nan}, {"mean": math.inf}):
        with pytest.raises(ConfigError, match="wanted a finite mean and a variance above 0"):
            Part(priors[0].kernel, **wrong)


def test_wrong_shapes_are_reported() -> None:
    priors, points, values, weights, *_ = problem(7)
    with pytest.raises(ShapeError, match=r"3 parts and 6 points need numbers of shape \(3, 6\), got \(2, 6\)"):
        Decomposed(priors, points, values[:2])
    with pytest.raises(ShapeError, match="6 points, but values of shape"):
        Mixed(priors, points, weights, values[0, :5])


def test_malformed_points_are_reported() -> None:
    priors, points, values, _, at, _ = problem(10)
    for wrong in (at[:, 0], at[:, :1], at[None]):
        with pytest.raises(ShapeError, match=r"got points of shape .*, wanted \(points, 2\)"):
            checked_points(priors, wrong)  # elsewhere, jaxtyping's runtime checks come first in these tests
    with pytest.raises(ShapeError, match=r"for one dimension write points\[:, None\]"):
        checked_points(priors, at[:, 0])
    with pytest.raises(ShapeError, match=r"wanted \(points, 2\)"):
        Decomposed(priors, points[:, :1], values)
    with pytest.raises(ShapeError, match=r"wanted \(points, 2\)"):
        Decomposed(priors, points, values).whole_at(at[:, :1])
    at[1, 0] = math.inf
    with pytest.raises(DataError, match="1 of 18 numbers are not finite"):
        Decomposed(priors, points, values).whole_at(at)
    with pytest.raises(ShapeError, match="got no parts; give at least one prior"):
        Decomposed([], points, values[:0])


def test_every_row_needs_noise() -> None:
    priors, points, values, weights, *_ = problem(12)
    with pytest.raises(ShapeError, match=r"minimum -0.1, wanted a variance above 0 for each of 6 rows"):
        Mixed(priors, points, weights, values[0], noise=torch.tensor([0.1] * 5 + [-0.1], dtype=torch.float64))
    with pytest.raises(ShapeError, match="a row of zero weights has none"):
        Mixed(priors, points, weights * torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64), values[0])
