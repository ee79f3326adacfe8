"""Gaussian processes that see each part of a score, not just the sum; usable without a language model.

Names are imported on first use, so importing this package loads neither torch nor the 'tune' extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_grpo.tune.acquisition import beta_box, beta_finite, confidence_bound
    from edge_grpo.tune.composition import delta_width, plug_in_mean, safe_width
    from edge_grpo.tune.fit import PriorSettings, fit_part, fit_parts, fit_prior, make_part, sum_kernel
    from edge_grpo.tune.kernels import StationarySettings, SumSettings, make_kernel
    from edge_grpo.tune.loop import search, search_composed
    from edge_grpo.tune.posterior import Decomposed, Gaussian, Mixed, Part, aggregate

__all__ = [
    "Decomposed",
    "Gaussian",
    "Mixed",
    "Part",
    "PriorSettings",
    "StationarySettings",
    "SumSettings",
    "aggregate",
    "beta_box",
    "beta_finite",
    "confidence_bound",
    "delta_width",
    "fit_part",
    "fit_parts",
    "fit_prior",
    "make_kernel",
    "make_part",
    "plug_in_mean",
    "safe_width",
    "search",
    "search_composed",
    "sum_kernel",
]

_EXPORTS = {
    "acquisition": ("beta_box", "beta_finite", "confidence_bound"),
    "composition": ("delta_width", "plug_in_mean", "safe_width"),
    "fit": ("PriorSettings", "fit_part", "fit_parts", "fit_prior", "make_part", "sum_kernel"),
    "kernels": ("StationarySettings", "SumSettings", "make_kernel"),
    "loop": ("search", "search_composed"),
    "posterior": ("Decomposed", "Gaussian", "Mixed", "Part", "aggregate"),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
