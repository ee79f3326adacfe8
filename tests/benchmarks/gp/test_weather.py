"""Perceived temperature matches the weather service's tables, and days reach both of its branches."""

import pytest
import torch
from gp.weather import SEASONS, day, perceived, regret

from edge_grpo.tune.composition import jacobian
from edge_grpo.tune.posterior import Gaussian


def felt(*parts: float) -> float:
    return float(perceived(torch.tensor(parts, dtype=torch.float64)[:, None]))


@pytest.mark.parametrize(("heat", "humid", "index"), [(80, 40, 80), (90, 70, 105), (86, 90, 105), (100, 50, 118)])
def test_the_heat_index_of_the_published_table(heat: int, humid: int, index: int) -> None:
    assert felt(heat, humid, 5) == pytest.approx(index, abs=1.0)


@pytest.mark.parametrize(("heat", "wind", "chill"), [(40, 5, 36), (0, 15, -19), (30, 10, 21), (-20, 30, -53)])
def test_the_wind_chill_of_the_published_table(heat: int, wind: int, chill: int) -> None:
    assert felt(heat, 50, wind) == pytest.approx(chill, abs=0.6)


def test_between_the_two_it_is_the_temperature() -> None:
    assert felt(60, 80, 20) == 60
    assert felt(30, 50, -5) == felt(30, 50, 3)


def test_slopes_are_finite_even_where_means_are_impossible() -> None:
    values = torch.tensor([[20.0, 60, 95], [-10, 50, 130], [-4, 0, 10]], dtype=torch.float64)
    slopes = jacobian(perceived, [Gaussian(row, torch.eye(3, dtype=torch.float64)) for row in values])
    assert torch.isfinite(slopes).all()


def test_days_repeat_and_reach_the_branch_of_their_season() -> None:
    for season in SEASONS:
        places, weather = day(season, "test")
        assert torch.equal(weather, day(season, "test")[1])
        assert places.shape == (500, 2)
        assert bool((weather[0] > 70).any() if season == "hottest" else (weather[0] < 50).any())
        assert 5 <= float(weather[1].min()) <= float(weather[1].max()) <= 100
        assert float(weather[2].min()) >= 0


@pytest.mark.slow
def test_a_day_is_searched_by_all_three() -> None:
    found = regret("coldest", 1000, 5.0)
    assert set(found) == {"delta", "safe", "sum"}
    felt_there = perceived(day("coldest", 1000)[1][:, 250:])
    by_chance = float((felt_there - felt_there.min()).mean())  # the average regret of stations drawn at random
    assert all(0 <= value < by_chance for value in found.values())
    assert max(found["delta"], found["sum"]) < by_chance / 2
