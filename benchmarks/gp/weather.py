"""Where it feels hottest or coldest: perceived temperature, a nonlinear function of three measured parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.tune.composition import delta_width, jacobian, safe_width
from edge_grpo.tune.fit import PriorSettings as Prior
from edge_grpo.tune.fit import fit_part, fit_parts, make_part
from edge_grpo.tune.kernels import StationarySettings as Kernel
from edge_grpo.tune.kernels import SumSettings
from edge_grpo.tune.loop import search, search_composed
from edge_grpo.tune.posterior import Gaussian, Part
from gp.draws import average_regret, generator, noisy, sample_path, uniform

__all__ = ["SEASONS", "day", "perceived", "regret"]

SEASONS = {"hottest": 88.0, "coldest": 48.0}  # degrees Fahrenheit at the southern edge; 30 lower at the northern
_NORTH = 30.0
_STATIONS, _TRAINING, _ROUNDS = 250, 250, 40
_DEVIATIONS = (1.0, 3.0, 1.0)  # of the instruments: degrees Fahrenheit, points of humidity, miles per hour
_FORM = SumSettings(terms=(Kernel(type="rbf"), Kernel(type="matern32"), Kernel(type="rq")))
_CALM = 3.0  # miles per hour; weaker wind counts as this


def perceived(parts: Float[Tensor, "3 points"]) -> Float[Tensor, " points"]:
    """Perceived temperature, degrees Fahrenheit: heat index above 70, wind chill below 50, the reading in between.

    Args:
        parts: temperature (degrees Fahrenheit), relative humidity (percent), wind (miles per hour).

    Source:
        US National Weather Service: the heat index, with its simple form below 80 (Rothfusz 1990, SR 90-23, without
        the two adjustments for very dry and very humid air), and the wind chill of 2001.
    """
    heat, humid, wind = parts[0], parts[1].clamp(0, 100), parts[2].clamp(min=_CALM)
    simple = (heat + 0.5 * (heat + 61 + 1.2 * (heat - 68) + 0.094 * humid)) / 2
    steep = (
        -42.379
        + 2.04901523 * heat
        + 10.14333127 * humid
        - 0.22475541 * heat * humid
        - 6.83783e-3 * heat**2
        - 5.481717e-2 * humid**2
        + 1.22874e-3 * heat**2 * humid
        + 8.5282e-4 * heat * humid**2
        - 1.99e-6 * heat**2 * humid**2
    )
    chill = 35.74 + 0.6215 * heat - 35.75 * wind**0.16 + 0.4275 * heat * wind**0.16
    index = torch.where(simple >= 80, steep, simple)
    return torch.where(heat > 70, index, torch.where(heat < 50, chill, heat))


@cache
def _fields() -> tuple[Part, ...]:
    """The fields that days are drawn from, around their means: temperature, humidity, wind."""
    rough = Kernel(type="matern32", variance=4, lengthscale=0.08)
    heat = SumSettings(terms=(Kernel(variance=36, lengthscale=0.3), rough))
    humid = Kernel(type="matern52", variance=324, lengthscale=0.15)
    wind = Kernel(type="matern12", variance=25, lengthscale=0.1)
    return tuple(make_part(Prior(kernel=kernel), dims=2) for kernel in (heat, humid, wind))


def day(season: str, *words: int | str) -> tuple[Float[Tensor, "stations 2"], Float[Tensor, "3 stations"]]:
    """500 stations in the unit square (east, north) and their weather on one synthetic day."""
    chance = generator("weather", season, *words)
    places = uniform(chance, 0, 1, _TRAINING + _STATIONS, 2)
    heat, humid, wind = (sample_path(field.covariance(places, places), chance) for field in _fields())
    weather = [SEASONS[season] - _NORTH * places[:, 1] + heat, (55 + humid).clamp(5, 100), (10 + wind).clamp(min=0)]
    return places, torch.stack(weather)


@dataclass(frozen=True)
class Fitted:
    """Priors fitted to one day of a season, of the parts and of the whole, and the whole's steepest slopes that day."""

    parts: list[Part]
    whole: list[Part]
    slopes: list[float]


@cache
def fitted(season: str) -> Fitted:
    """Fit to 250 noisy stations of a day that is never searched; the whole's noise is fitted too."""
    places, weather = day(season, "training")
    places, weather = places[:_TRAINING], weather[:, :_TRAINING]
    observe = noisy(weather, _DEVIATIONS, "weather", season, "training noise")
    values = torch.stack([observe(index) for index in range(_TRAINING)], dim=1)
    parts = fit_parts(places, values, kernels=[_FORM] * 3, noises=[deviation**2 for deviation in _DEVIATIONS])
    exact = [Gaussian(row, torch.zeros(len(row), len(row), dtype=row.dtype)) for row in values]
    slopes = jacobian(perceived, exact).abs().amax(0).tolist()
    return Fitted(parts, [fit_part(places, perceived(values), kernel=_FORM)], slopes)


def regret(season: str, draw: int, scale: float) -> dict[str, float]:
    """Average regrets, degrees Fahrenheit, of searching 250 stations for a day's most extreme one.

    Returns:
        ``delta``: D-GPUCB with the delta method; ``safe``: with the safe width from the fitted day's steepest slopes,
        which guarantees nothing here, since perceived temperature jumps at 50 and 70; ``sum``: GP-UCB on the perceived
        temperature of the same noisy readings.
    """
    known, maximize = fitted(season), season == "hottest"
    places, weather = day(season, draw)
    places, weather = places[_TRAINING:], weather[:, _TRAINING:]
    truth = perceived(weather)
    start = [int(torch.randint(_STATIONS, (), generator=generator("weather", "start", season, draw)))]
    widths: dict[str, tuple[Callable[[Sequence[Gaussian]], Tensor], int]] = {
        "delta": (lambda own: delta_width(perceived, own), 1),
        "safe": (lambda own: safe_width(own, known.slopes), 3),
    }
    options: dict[str, Any] = {"start": start, "rounds": _ROUNDS, "maximize": maximize, "scale": scale}

    def readings() -> Callable[[int], Tensor]:
        return noisy(weather, _DEVIATIONS, "weather", "noise", season, draw)

    found = {
        name: search_composed(known.parts, perceived, width, places, readings(), union=union, **options)
        for name, (width, union) in widths.items()
    }
    read = readings()
    found["sum"] = search(known.whole, places, lambda index: perceived(read(index)[:, None]), **options)
    return {name: average_regret(rounds, truth, maximize=maximize) for name, rounds in found.items()}
