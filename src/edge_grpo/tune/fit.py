"""Priors of parts: set by hand, or fitted to observations."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError, DataError, ShapeError
from edge_grpo.base.settings import settings
from edge_grpo.tune.kernels import KernelSettings, StationarySettings, SumSettings, make_kernel
from edge_grpo.tune.posterior import Part

__all__ = ["PriorSettings", "fit_part", "fit_parts", "fit_prior", "make_part", "sum_kernel"]

_MIN_LENGTHSCALE = 5e-3  # as a share of the points' range: below it, covariances on a grid are rank-deficient
_MIN_VARIANCE = 1e-6  # of kernels and noise, as a share of the variance of the values
_CONSTANT_NOISE = 1e-4  # as a share of the kernel's variance, where constant values carry no information on noise
_LONGEST_START, _SHORTEST_START = 0.5, 0.05
_START_VARIANCES, _START_LENGTHS = (1e-2, 1e2), (1e-2, 10.0)  # starts are clamped to these

MATERN = StationarySettings(type="matern52")


@settings
class PriorSettings:
    """The prior belief about a part: set by hand, or found by :func:`fit_prior`."""

    kernel: KernelSettings = MATERN
    mean: float = 0.0
    noise: Annotated[float, Field(gt=0)] = 0.01


def make_part(prior: PriorSettings, *, dims: int) -> Part:
    """A part with this prior; its hyperparameters are frozen."""
    return Part(make_kernel(prior.kernel, dims=dims).requires_grad_(False), prior.mean, prior.noise)


def sum_kernel(kernels: Sequence[KernelSettings]) -> SumSettings:
    """The kernel of a sum of independent parts, for fitting the whole as one part.

    Example:
        >>> [term.type for term in sum_kernel([StationarySettings(), StationarySettings(type="rq")]).terms]
        ['rbf', 'rq']
    """
    return SumSettings(terms=tuple(term for kernel in kernels for term in _terms(kernel)))


def fit_prior(
    points: Float[Tensor, "n dims"],
    values: Float[Tensor, " n"],
    *,
    kernel: KernelSettings = MATERN,
    noise: float | None = None,
    resolution: float | None = None,
) -> PriorSettings:
    r"""The maximum a posteriori prior of one part, given its observations and weak hyperpriors.

    .. math:: \arg\max_\theta\; \log p(y \mid X, \theta) + \log p(\theta)

    For the fit, points are scaled to the unit box and values to mean 0 and standard deviation 1. The result is scaled
    back: lengthscales by the range of each dimension, the kernel's variance and the noise by the variance of the
    values. Each dimension has its own lengthscale. The fit starts once from ``kernel`` and once from lengthscales
    spread over the terms, and keeps the better optimum; it is deterministic. Computed in float64.

    Hyperpriors, in scaled units: BoTorch's for lengthscales, :math:`\log \ell \sim N(\sqrt 2 + \log(d) / 2, 3)`, and
    noise, :math:`\log \sigma^2 \sim N(-4, 1)`; ours for the variance of one of m terms,
    :math:`\log v \sim N(-\log m, 1)`, and alpha of ``rq``, :math:`\log \alpha \sim N(0, 1)`. They dominate when
    observations are few, and fade as more arrive.

    Constant values carry no information on scale but that they vary by less than their resolution: the mean is that
    value, the kernel's variance the square of ``resolution`` (that of ``kernel`` if not given), its form and
    lengthscales those of ``kernel``, and the noise the one given, or 1e-4 of the kernel's variance.

    Args:
        points: where the part was observed, in any units.
        values: the observations, in any units.
        kernel: its form, and where the fit starts.
        noise: the known noise variance, squared units of the values; None fits it. It is raised to at least a
            millionth of the variance of the values, so that covariances of nearby points keep full rank.
        resolution: the smallest difference that two values can show, such as 1/n for a share of n problems.

    Raises:
        DataError: fewer than 2 observations, some of them not finite, or no start converges.
        ConfigError: ``noise`` is not above 0, or the 'tune' extra is not installed.

    Source:
        Rasmussen and Williams 2006, ch. 5; hyperpriors of Hvarfner et al. 2024, arXiv:2402.02229, as in BoTorch's
        ``SingleTaskGP``.
    """
    points, values = points.double().detach(), values.double().detach()
    _check(points, values, noise)
    center, spread = float(values.mean()), float(values.std())
    if bool((values == values[0]).all()) or spread == 0:
        if resolution is not None:
            kernel = _with_variance(kernel, resolution**2)
        unseen = _CONSTANT_NOISE * sum(term.variance for term in _terms(kernel))
        return PriorSettings(kernel=kernel, mean=float(values[0]), noise=noise or unseen)
    low, width = points.amin(0), points.amax(0) - points.amin(0)
    width = torch.where(width > 0, width, 1.0)
    inputs, targets = (points - low) / width, (values - center) / spread
    noise = None if noise is None else max(noise, _MIN_VARIANCE * spread**2)
    known = None if noise is None else noise / spread**2
    starts = (_start(kernel, width, spread), _spread_start(kernel, len(width)))
    ends = [_maximized(inputs, targets, start, known) for start in starts]
    if not any(ends):
        raise DataError(f"fit: found no prior for {len(values)} observations; set the prior by hand, or drop outliers")
    _, model = max((end for end in ends if end), key=lambda end: end[0])
    return PriorSettings(
        kernel=_read_back(kernel, model.covar_module, width, spread**2),
        mean=center + spread * float(model.mean_module.constant),
        noise=noise or spread**2 * float(model.likelihood.noise.mean()),
    )


def fit_part(
    points: Float[Tensor, "n dims"],
    values: Float[Tensor, " n"],
    *,
    kernel: KernelSettings = MATERN,
    noise: float | None = None,
    resolution: float | None = None,
) -> Part:
    """One part with the prior from :func:`fit_prior`; same arguments and errors."""
    prior = fit_prior(points, values, kernel=kernel, noise=noise, resolution=resolution)
    return make_part(prior, dims=points.shape[1])


def fit_parts(
    points: Float[Tensor, "n dims"],
    values: Float[Tensor, "parts n"],
    *,
    kernels: Sequence[KernelSettings] | None = None,
    noises: Sequence[float | None] | None = None,
    resolutions: Sequence[float | None] | None = None,
) -> list[Part]:
    """All parts, each fitted independently of the others.

    Args:
        points: where all parts were observed.
        values: the observations of each.
        kernels: one per part; None = Matern 5/2.
        noises: known noise variances, one per part; None, for one or for all, fits it.
        resolutions: smallest differences that the values of each part can show, see :func:`fit_prior`.

    Raises:
        ShapeError: the number of kernels, noises or resolutions differs from the number of parts, or ``values`` has no
            row per part.
    """
    points, values = points.double(), values.double()
    if values.ndim != 2 or not len(values):
        raise ShapeError(f"fit: got values of shape {tuple(values.shape)}, wanted (parts, {len(points)})")
    for name, given in (("kernels", kernels), ("noises", noises), ("resolutions", resolutions)):
        if given is not None and len(given) != len(values):
            raise ShapeError(f"got {len(given)} {name} for {len(values)} parts; give one per part")
    unknown = [None] * len(values)
    each = zip(values, kernels or [MATERN] * len(values), noises or unknown, resolutions or unknown, strict=True)
    return [fit_part(points, own, kernel=kernel, noise=noise, resolution=least) for own, kernel, noise, least in each]


def _maximized(inputs: Tensor, targets: Tensor, start: KernelSettings, noise: float | None) -> tuple[float, Any] | None:
    """The highest objective reached and BoTorch's model there; None if the fit fails."""
    botorch, gpytorch = _libraries()
    likelihood, known = None, None
    if noise is None:
        at_least = gpytorch.constraints.GreaterThan(_MIN_VARIANCE, transform=None, initial_value=0.02)
        prior = gpytorch.priors.LogNormalPrior(-4.0, 1.0)
        likelihood = gpytorch.likelihoods.GaussianLikelihood(prior, noise_constraint=at_least)
    else:
        known = torch.full_like(targets[:, None], noise)
    covariance = _with_priors(start, inputs.shape[1])
    model = botorch.models.SingleTaskGP(
        inputs, targets[:, None], known, likelihood=likelihood, covar_module=covariance, outcome_transform=None
    ).double()
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    with (
        botorch.utils.sampling.manual_seed(0),
        warnings.catch_warnings(),
    ):  # a failed fit is retried from random points
        warnings.simplefilter("ignore", gpytorch.utils.warnings.NumericalWarning)
        try:
            botorch.fit.fit_gpytorch_mll(objective)
        except botorch.exceptions.ModelFittingError:
            return None
        model.train()
        with torch.no_grad():
            reached = float(objective(model(*model.train_inputs), model.train_targets))
    return reached, model.eval().requires_grad_(False)


def _with_priors(kernel: KernelSettings, dims: int) -> Any:
    """The kernel with hyperpriors, for points in the unit box and values of standard deviation 1."""
    _, gpytorch = _libraries()
    made, share = make_kernel(kernel, dims=dims), -math.log(len(_terms(kernel)))
    longest = 2**0.5 + 0.5 * math.log(dims)
    for scaled in _modules(kernel, made):
        base = scaled.base_kernel
        _guard(scaled, "outputscale", _MIN_VARIANCE, gpytorch.priors.LogNormalPrior(share, 1.0))
        _guard(base, "lengthscale", _MIN_LENGTHSCALE, gpytorch.priors.LogNormalPrior(longest, 3**0.5))
        if hasattr(base, "raw_alpha"):
            _guard(base, "alpha", _MIN_VARIANCE, gpytorch.priors.LogNormalPrior(0.0, 1.0))
    return made


def _guard(module: Any, name: str, least: float, prior: Any) -> None:
    """Add a lower bound and a hyperprior; keep the value."""
    _, gpytorch = _libraries()
    value = getattr(module, name).detach().clone()
    module.register_constraint(f"raw_{name}", gpytorch.constraints.GreaterThan(least, transform=None))
    module.register_prior(f"{name}_prior", prior, name)
    setattr(module, name, value)


def _start(kernel: KernelSettings, width: Tensor, spread: float) -> KernelSettings:
    """The kernel in scaled units."""
    made = []
    for term in _terms(kernel):
        given = term.lengthscale if isinstance(term.lengthscale, tuple) else (term.lengthscale,) * len(width)
        if len(given) != len(width):
            wanted = f"give {len(width)}, or one number"
            raise ConfigError(f"lengthscale: got {len(given)} for {len(width)} dimensions; {wanted}")
        scales = tuple(_within(_START_LENGTHS, own / float(w)) for own, w in zip(given, width, strict=True))
        made.append(_changed(term, _within(_START_VARIANCES, term.variance / spread**2), scales))
    return _like(kernel, made)


def _spread_start(kernel: KernelSettings, dims: int) -> KernelSettings:
    """Terms that differ: lengthscales from long to short, equal variances."""
    terms = _terms(kernel)
    count = len(terms)
    step = (_SHORTEST_START / _LONGEST_START) ** (1 / max(count - 1, 1))
    scales = [_LONGEST_START * step**index for index in range(count)] if count > 1 else [0.2]
    return _like(kernel, [_changed(t, 1.0 / count, (s,) * dims) for t, s in zip(terms, scales, strict=True)])


def _read_back(kernel: KernelSettings, module: Any, width: Tensor, variance: float) -> KernelSettings:
    """The fitted hyperparameters as settings, in the units of the points and values."""
    terms = []
    for term, scaled in zip(_terms(kernel), _modules(kernel, module), strict=True):
        base = scaled.base_kernel
        scales = tuple((base.lengthscale.detach()[0] * width).tolist())
        alpha = float(base.alpha) if term.type == "rq" else term.alpha
        terms.append(_changed(term, variance * float(scaled.outputscale), scales, alpha))
    return _like(kernel, terms)


def _with_variance(kernel: KernelSettings, variance: float) -> KernelSettings:
    """The kernel scaled to a variance, shared among its terms in proportion to theirs."""
    factor = variance / sum(term.variance for term in _terms(kernel))
    return _like(kernel, [replace(term, variance=factor * term.variance) for term in _terms(kernel)])


def _terms(kernel: KernelSettings) -> tuple[StationarySettings, ...]:
    return kernel.terms if isinstance(kernel, SumSettings) else (kernel,)


def _modules(kernel: KernelSettings, made: Any) -> Iterator[Any]:
    return iter(made.kernels if isinstance(kernel, SumSettings) else (made,))


def _like(kernel: KernelSettings, terms: Sequence[StationarySettings]) -> KernelSettings:
    return SumSettings(terms=tuple(terms)) if isinstance(kernel, SumSettings) else terms[0]


def _within(bounds: tuple[float, float], value: float) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _changed(
    term: StationarySettings, variance: float, scales: tuple[float, ...], alpha: float | None = None
) -> StationarySettings:
    return StationarySettings(
        type=term.type, variance=variance, lengthscale=scales, alpha=term.alpha if alpha is None else alpha
    )


def _check(points: Tensor, values: Tensor, noise: float | None) -> None:
    if points.ndim != 2:
        hint = "; for one dimension write points[:, None]" if points.ndim == 1 else ""
        raise ShapeError(f"fit: got points of shape {tuple(points.shape)}, wanted (points, dims){hint}")
    if values.shape != points.shape[:1]:
        raise ShapeError(f"fit: {len(points)} points, but values of shape {tuple(values.shape)}; give one per point")
    if len(values) < 2:
        raise DataError(
            f"fit: got {len(values)} observations, wanted at least 2; observe more, or set the prior by hand"
        )
    bad = int((~torch.isfinite(points).all(1) | ~torch.isfinite(values)).sum())
    if bad:
        raise DataError(f"fit: {bad} of {len(values)} observations are not finite; drop them")
    if noise is not None and not 0 < noise < float("inf"):
        raise ConfigError(f"fit: got noise {noise:g}, wanted a variance above 0, or None to fit it")


def _libraries() -> tuple[Any, Any]:
    try:
        import botorch.exceptions  # noqa: PLC0415 - in the extra
        import botorch.fit  # noqa: PLC0415
        import botorch.models  # noqa: PLC0415
        import botorch.utils.sampling  # noqa: PLC0415
        import gpytorch  # noqa: PLC0415
    except ImportError:
        raise ConfigError("tuning needs the 'tune' extra: pip install 'edge-grpo[tune]'") from None
    return botorch, gpytorch
