"""Fitted priors: near the truth given many observations, in the right units, deterministic, independent per part."""

import math
import sys

import pytest
import torch
from pydantic import ValidationError
from tune.priors import draw, part

import edge_grpo.tune as tune
from edge_grpo.base.errors import ConfigError, DataError, ShapeError
from edge_grpo.tune.fit import PriorSettings, fit_part, fit_parts, fit_prior, make_part, sum_kernel
from edge_grpo.tune.kernels import StationarySettings, SumSettings
from edge_grpo.tune.posterior import Decomposed, Part, aggregate

RBF, RQ = StationarySettings(type="rbf"), StationarySettings(type="rq")


def sampled(prior: Part, points: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noisy values of one draw of a part."""
    covariance = prior.covariance(points, points) + prior.noise * torch.eye(len(points), dtype=torch.float64)
    normal = torch.randn(len(points), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return prior.mean + torch.linalg.cholesky(covariance) @ normal


def likelihood(prior: PriorSettings, points: torch.Tensor, values: torch.Tensor) -> float:
    return float(Decomposed([make_part(prior, dims=points.shape[1])], points, values[None]).log_marginal_likelihood)


def test_many_observations_recover_the_prior_that_generated_them() -> None:
    truth = part("rbf", lengthscale=0.1, variance=4.0, mean=7.0, noise=0.04)
    points = draw(0, 120, 1)
    values = sampled(truth, points)
    found = fit_prior(points, values, kernel=RBF)
    (lengthscale,) = found.kernel.lengthscale
    assert lengthscale == pytest.approx(0.1, rel=0.25)
    assert found.noise == pytest.approx(0.04, rel=0.4)
    assert 1.3 < found.kernel.variance < 12
    true = PriorSettings(kernel=StationarySettings(variance=4.0, lengthscale=0.1), mean=7.0, noise=0.04)
    assert likelihood(found, points, values) > likelihood(true, points, values) - 1.0
    assert likelihood(found, points, values) > likelihood(PriorSettings(kernel=RBF, mean=7.0), points, values) + 20


def test_an_irrelevant_dimension_gets_a_long_lengthscale() -> None:
    points = draw(1, 60, 2)
    found = fit_prior(points, torch.sin(9 * points[:, 0]) + 0.05 * draw(2, 60), kernel=RBF)
    relevant, other = found.kernel.lengthscale
    assert relevant < 0.5 < 2 < other


@pytest.mark.parametrize("known", [None, 0.09])
def test_fits_are_equivariant_to_the_units_of_points_and_values(known: float | None) -> None:
    points, stretch = draw(3, 25, 2), torch.tensor([1000.0, 0.01], dtype=torch.float64)
    values = torch.sin(5 * points[:, 0]) + points[:, 1] + 0.1 * draw(4, 25)
    one = fit_prior(points, values, kernel=RQ, noise=known)
    far = fit_prior(points * stretch - 7, 50 * values + 300, kernel=RQ, noise=known and known * 2500)
    at = draw(5, 9, 2)
    here = Decomposed([make_part(one, dims=2)], points, values[None]).whole_at(at)
    there = Decomposed([make_part(far, dims=2)], points * stretch - 7, 50 * values[None] + 300).whole_at(
        at * stretch - 7
    )
    torch.testing.assert_close(50 * here.mean + 300, there.mean, rtol=1e-3, atol=0.2)
    torch.testing.assert_close(2500 * here.variance, there.variance, rtol=0.05, atol=0.5)
    if known:
        assert (one.noise, far.noise) == (known, known * 2500)
    else:
        assert far.noise == pytest.approx(2500 * one.noise, rel=0.05)


def test_fits_are_deterministic_and_leave_the_global_generator_alone() -> None:
    points = draw(6, 12, 1)
    values = torch.cos(8 * points[:, 0])
    torch.manual_seed(5)
    first = fit_prior(points, values)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(6)
    assert fit_prior(points, values) == first


def test_each_part_is_fitted_independently_of_the_others() -> None:
    points, values = draw(7, 15, 1), draw(8, 3, 15)
    kernels, noises = (RBF, RQ, StationarySettings(type="matern32")), (0.01, None, 0.02)
    together = fit_parts(points, values, kernels=kernels, noises=noises)
    for own, kernel, noise, found in zip(values, kernels, noises, together, strict=True):
        alone = fit_part(points, own, kernel=kernel, noise=noise)
        assert (alone.mean, alone.noise) == (found.mean, found.noise)
        assert torch.equal(alone.covariance(points, points), found.covariance(points, points))
    assert len(fit_parts(points, values[:2])) == 2


def test_a_sum_kernel_separates_its_terms_and_yields_the_aggregate() -> None:
    wave = part("rbf", lengthscale=0.5, variance=1.0, noise=0.001)
    rough = part("matern32", lengthscale=0.04, variance=0.2, noise=0.001)
    points = torch.linspace(0, 1, 80, dtype=torch.float64)[:, None]
    kernel = sum_kernel([RBF, SumSettings(terms=(StationarySettings(type="matern32"),))])
    values = sampled(wave, points) + sampled(rough, points, seed=1)
    found = fit_prior(points, values, kernel=kernel)
    long, short = found.kernel.terms
    assert (long.type, short.type) == ("rbf", "matern32")
    assert long.lengthscale[0] > 3 * short.lengthscale[0]
    whole = make_part(found, dims=1)
    one = aggregate([whole], points, values).whole_at(points[:5])
    torch.testing.assert_close(one.mean, Decomposed([whole], points, values[None]).whole_at(points[:5]).mean)


def test_a_start_far_from_the_data_fits_as_well_as_a_near_one() -> None:
    points = draw(17, 30, 1)
    values = torch.sin(9 * points[:, 0]) + 0.05 * draw(18, 30)
    near = fit_prior(points, values, kernel=RQ, noise=0.001)
    for lengthscale, variance in ((1e6, 1e-12), (1e-9, 1e9)):
        start = StationarySettings(type="rq", lengthscale=lengthscale, variance=variance)
        far = fit_prior(points, values, kernel=start, noise=0.001)
        assert likelihood(far, points, values) > likelihood(near, points, values) - 1.0


def test_noise_far_below_the_values_is_raised_to_a_usable_level() -> None:
    points = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    values = 1e4 * torch.sin(4 * points[:, 0])
    part = fit_part(points, values, kernel=RBF, noise=1e-9)
    assert part.noise == pytest.approx(1e-6 * float(values.var()))
    found = Decomposed([part], points, values[None]).whole_at(points)
    torch.testing.assert_close(found.mean, values, rtol=0, atol=20.0)
    assert fit_prior(points, values, kernel=RBF, noise=50.0 + float(values.var())).noise == 50.0 + float(values.var())


def test_known_noise_determines_how_much_the_kernel_explains() -> None:
    points, values = draw(31, 30, 1), draw(32, 30)
    rough, smooth = (fit_prior(points, values, kernel=RBF, noise=noise) for noise in (0.01, 1.0))
    assert rough.kernel.variance > 2 * smooth.kernel.variance
    assert rough.kernel.lengthscale[0] < smooth.kernel.lengthscale[0]


def test_two_observations_give_a_sane_prior() -> None:
    points = draw(9, 2, 3)
    found = fit_prior(points, torch.tensor([0.2, 0.5], dtype=torch.float64))
    assert all(0.001 < scale < 100 for scale in found.kernel.lengthscale)
    assert 0 < found.noise < 0.1
    assert math.isfinite(likelihood(found, points, torch.tensor([0.2, 0.5], dtype=torch.float64)))


def test_float32_inputs_are_fitted_in_float64() -> None:
    points = draw(10, 8, 1)
    values = torch.sin(3 * points[:, 0])
    part = fit_part(points.float(), values.float())
    assert part.covariance(points, points).dtype == torch.float64


@pytest.mark.parametrize(("known", "noise"), [(None, 0.0003), (0.2, 0.2)])
def test_constant_values_leave_the_kernel_unchanged(known: float | None, noise: float) -> None:
    kernel = StationarySettings(variance=3.0, lengthscale=0.4)
    found = fit_prior(draw(11, 6, 2), torch.full((6,), 0.1, dtype=torch.float64), kernel=kernel, noise=known)
    assert (found.kernel, found.mean) == (kernel, pytest.approx(0.1))
    assert found.noise == pytest.approx(noise)


def test_constant_values_vary_by_their_resolution() -> None:
    points, values = draw(11, 6, 2), torch.zeros(6, dtype=torch.float64)
    found = fit_prior(points, values, kernel=StationarySettings(variance=3.0, lengthscale=0.4), resolution=0.02)
    assert found.kernel.variance == pytest.approx(0.02**2)
    assert (found.kernel.lengthscale, found.mean) == (0.4, 0.0)
    assert found.noise == pytest.approx(1e-4 * 0.02**2)
    both = sum_kernel([StationarySettings(variance=3.0), StationarySettings(variance=1.0)])
    terms = fit_prior(points, values, kernel=both, resolution=0.02).kernel.terms
    assert [term.variance for term in terms] == pytest.approx([3e-4, 1e-4])
    (part,) = fit_parts(points, values[None], resolutions=[0.02])
    assert float(part.covariance(points[:1], points[:1])) == pytest.approx(0.02**2)


def test_repeated_points_and_a_constant_dimension_can_be_fitted() -> None:
    points = torch.cat([draw(12, 4, 1).repeat(2, 1), torch.full((8, 1), 2.0, dtype=torch.float64)], dim=1)
    found = fit_prior(points, draw(13, 8))
    assert math.isfinite(found.noise)
    assert len(found.kernel.lengthscale) == 2


def test_bad_input_is_rejected_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    points, values = draw(14, 4, 2), draw(15, 4)
    with pytest.raises(DataError, match=r"fit: got 1 observations, wanted at least 2; observe more, or set the prior"):
        fit_prior(points[:1], values[:1])
    with pytest.raises(DataError, match=r"fit: 2 of 4 observations are not finite; drop them"):
        fit_prior(points.index_fill(0, torch.tensor(0), math.nan), values.index_fill(0, torch.tensor(1), math.inf))
    with pytest.raises(Exception, match="values"):  # a ShapeError, or jaxtyping's under runtime type checks
        fit_prior(points, values[:3])
    with pytest.raises(ShapeError, match=r"got values of shape .*, wanted \(parts, 4\)"):
        fit_parts(points, draw(16, 0, 4))
    with pytest.raises(ShapeError, match="got 1 kernels for 2 parts"):
        fit_parts(points, draw(16, 2, 4), kernels=[RBF])
    with pytest.raises(ConfigError, match="got noise 0, wanted a variance above 0"):
        fit_prior(points, values, noise=0.0)
    with pytest.raises(ConfigError, match="lengthscale: got 3 for 2 dimensions"):
        fit_prior(points, values, kernel=StationarySettings(lengthscale=(1.0, 1.0, 1.0)))
    with pytest.raises(ValidationError):
        PriorSettings(noise=0)
    monkeypatch.setitem(sys.modules, "botorch.fit", None)
    with pytest.raises(ConfigError, match="needs the 'tune' extra"):
        fit_prior(points, values)


def test_all_public_names_can_be_imported() -> None:
    assert dir(tune) == sorted(tune.__all__)
    assert all(getattr(tune, name) is not None for name in tune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tune.nothing
