"""Searches over candidates find good ones, and observe every chosen candidate in turn."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tune.priors import draw, part

from edge_grpo.base.errors import ConfigError, DataError, ShapeError
from edge_grpo.tune.composition import Composition, delta_width, safe_width
from edge_grpo.tune.loop import Round, search, search_composed
from edge_grpo.tune.posterior import Gaussian


def table(candidates: torch.Tensor) -> torch.Tensor:
    x = candidates[:, 0]
    return torch.stack([torch.sin(6 * x), 0.7 * torch.cos(25 * x)])


def run(**options: Any) -> tuple[list[Round], list[int], torch.Tensor]:
    candidates = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    values, looked = table(candidates), []

    def observe(index: int) -> torch.Tensor:
        looked.append(index)
        return values[:, index] + 0.02 * (draw(len(looked), 2) - 0.5)

    priors = [part("rbf", lengthscale=0.3), part("matern52", lengthscale=0.08, variance=0.5)]
    found = search(priors, candidates, observe, start=[30], rounds=15, scale=5.0, **options)
    return found, looked, values.sum(0)


def test_both_searches_get_close_to_the_maximum() -> None:
    for decomposed in (True, False):
        found, looked, whole = run(decomposed=decomposed)
        assert looked == [30, *(each.chosen for each in found)]
        assert [each.step for each in found] == list(range(1, 16))
        assert max(whole[looked]) > whole.max() - 0.05


def test_minimising_gets_close_to_the_minimum() -> None:
    _, looked, whole = run(maximize=False)
    assert min(whole[looked]) < whole.min() + 0.05


def test_weights_change_the_optimum() -> None:
    weights = torch.stack([torch.zeros(60, dtype=torch.float64), torch.ones(60, dtype=torch.float64)])
    _, looked, _ = run(weights=weights)
    second = table(torch.linspace(0, 1, 60, dtype=torch.float64)[:, None])[1]
    assert max(second[looked]) > second.max() - 0.05


def composed(
    composition: Composition, width: Callable[[Sequence[Gaussian]], torch.Tensor], **options: Any
) -> tuple[list[Round], list[int], torch.Tensor]:
    candidates = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    values, looked = table(candidates), []
    priors = [part("rbf", lengthscale=0.3), part("matern52", lengthscale=0.08, variance=0.5)]

    def observe(index: int) -> torch.Tensor:
        looked.append(index)
        return values[:, index]

    found = search_composed(
        priors, composition, width, candidates, observe, start=[30], rounds=15, scale=5.0, **options
    )
    return found, looked, composition(values)


def test_searching_a_linear_composition_equals_the_linear_search() -> None:
    linear = lambda f: f[0] + f[1]  # noqa: E731
    found, looked, _ = composed(linear, lambda own: delta_width(linear, own))
    candidates = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    priors = [part("rbf", lengthscale=0.3), part("matern52", lengthscale=0.08, variance=0.5)]
    values = table(candidates)
    same = search(priors, candidates, lambda index: values[:, index], start=[30], rounds=15, scale=5.0)
    assert [each.chosen for each in found] == [each.chosen for each in same] == looked[1:]


def test_a_nonlinear_whole_is_searched_with_either_width() -> None:
    nonlinear = lambda f: f[0] * f[1].exp()  # noqa: E731
    for width, union in ((lambda own: delta_width(nonlinear, own), 1), (lambda own: safe_width(own, [2.1, 2.1]), 2)):
        _, looked, whole = composed(nonlinear, width, union=union)
        assert max(whole[looked]) > whole.max() - 0.1
    safe, *_ = composed(nonlinear, lambda own: safe_width(own, [2.1, 2.1]), union=2, maximize=False)
    plain, *_ = composed(nonlinear, lambda own: safe_width(own, [2.1, 2.1]), maximize=False)
    assert all(one.beta > two.beta for one, two in zip(safe, plain, strict=True))


def test_a_search_needs_a_start_and_finite_values() -> None:
    candidates, priors = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None], [part()]
    for wrong in ({"start": []}, {"start": [5]}, {"start": [-1]}, {"rounds": -1}):
        options = {"start": [0], "rounds": 1, **wrong}
        with pytest.raises(ConfigError, match="wanted at least one index into 5 candidates, and at least 0 rounds"):
            search(priors, candidates, lambda _: torch.zeros(1), **options)
        with pytest.raises(ConfigError, match="wanted at least one index into 5 candidates"):
            search_composed(priors, len, len, candidates, lambda _: torch.zeros(1), **options)
    with pytest.raises(ShapeError, match="1 parts and 1 points need numbers of shape"):
        search(priors, candidates, lambda _: torch.zeros(2), start=[0], rounds=1)
    with pytest.raises(DataError, match="1 of 1 numbers are not finite"):
        search(priors, candidates, lambda _: torch.tensor([math.nan]), start=[0], rounds=1)
