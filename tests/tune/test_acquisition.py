"""Widths and confidence bounds."""

import math

import pytest
import torch

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.acquisition import beta_box, beta_finite, confidence_bound


def test_the_width_over_finitely_many_candidates_follows_its_formula() -> None:
    assert beta_finite(7, 6) == pytest.approx(18.04572332707232, abs=1e-12)  # tests/golden, decomposed_gp_case1
    assert beta_finite(12, 5, parts=2) - beta_finite(12, 5) == pytest.approx(2 * math.log(2))
    assert beta_finite(7, 6, scale=5) == pytest.approx(beta_finite(7, 6) / 5)
    assert beta_finite(7, 7) > beta_finite(7, 6)


def test_the_width_over_a_box_follows_its_formula() -> None:
    d, t, delta = 2, 3, 0.1
    first = 2 * math.log(2 * t**2 * math.pi**2 / (3 * delta))
    second = 2 * d * math.log(t**2 * d * 0.5 * math.sqrt(math.log(4 * d * 2.0 / delta)))
    assert beta_box(d, t, delta=delta, a=2.0, b=0.5) == pytest.approx(first + second)
    assert beta_box(d, t, scale=4) == pytest.approx(beta_box(d, t) / 4)


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"delta": 1.0}, {"scale": 0.0}, {"step": 0}])
def test_arguments_out_of_range_are_rejected(wrong: dict[str, float]) -> None:
    options = {"step": 1, **wrong}
    with pytest.raises(ConfigError, match="wanted step >= 1, 0 < delta < 1 and scale > 0"):
        beta_finite(3, **options)
    with pytest.raises(ConfigError, match="wanted step >= 1, 0 < delta < 1 and scale > 0"):
        beta_box(3, **options)
    with pytest.raises(ConfigError, match=r"beta is .* for b 1e-09, wanted at least 0; raise b"):
        beta_box(3, 1, b=1e-9)
    for dims, a, b in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, -1)):
        with pytest.raises(ConfigError, match="wanted all of them above 0"):
            beta_box(dims, 1, a=a, b=b)
    for candidates, parts in ((0, 1), (3, 0)):
        with pytest.raises(ConfigError, match="wanted at least one of each"):
            beta_finite(candidates, 1, parts=parts)
    with pytest.raises(ConfigError, match="raise a"):
        beta_box(1, 1, a=0.001)


def test_minimising_is_maximising_the_negative() -> None:
    mean, deviation = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.5, 0.1, 1.0])
    assert confidence_bound(mean, deviation, 4.0).tolist() == [2.0, pytest.approx(2.2), 2.5]
    lowest = confidence_bound(mean, deviation, 4.0, maximize=False)
    assert torch.equal(lowest, confidence_bound(-mean, deviation, 4.0))
    assert int(lowest.argmax()) == 2
