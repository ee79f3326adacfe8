"""Draws are reproducible, and the i-th observation has the same noise at every point."""

import pytest
import torch
from gp.draws import average_regret, generator, noisy, sample_path, uniform

from edge_grpo.tune.loop import Round


def test_numbers_depend_only_on_their_words() -> None:
    one, two = (uniform(generator("a", 1), -1, 3, 500) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, uniform(generator("a", 2), -1, 3, 500))
    assert -1 <= float(one.min()) < -0.9 < 2.9 < float(one.max()) < 3
    assert -1 < float(uniform(generator("a"), -1, 3)) < 3


def test_noise_belongs_to_the_observation() -> None:
    values = torch.zeros(2, 5, dtype=torch.float64)
    one, two = (noisy(values, [1.0, 0.0], "n") for _ in range(2))
    for first, second in ((0, 4), (3, 3), (1, 2)):
        left, right = one(first), two(second)
        assert torch.equal(left, right)
        assert left[0] != 0
        assert left[1] == 0


def test_a_path_has_the_covariance_asked_for() -> None:
    covariance = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    paths = torch.stack([sample_path(covariance, generator(seed)) for seed in range(4000)])
    torch.testing.assert_close(paths.T @ paths / 4000, covariance, rtol=0, atol=0.15)


def test_regret_is_the_distance_to_the_best() -> None:
    found, whole = [Round(1, 1.0, 0, 0.0), Round(2, 1.0, 2, 0.0)], torch.tensor([1.0, 4.0, 3.0])
    assert average_regret(found, whole) == pytest.approx(2.0)
    assert average_regret(found, whole, maximize=False) == pytest.approx(1.0)
