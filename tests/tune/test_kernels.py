"""Kernels against their formulas."""

import math
import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tune.priors import KINDS, Kind, draw

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.kernels import KernelSettings, StationarySettings, SumSettings, make_kernel

FORMULAS = {
    "rbf": lambda r: math.exp(-(r**2) / 2),
    "matern12": lambda r: math.exp(-r),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
    "matern52": lambda r: (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r),
    "rq": lambda r: (1 + r**2 / (2 * 0.7)) ** -0.7,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_follows_its_formula(kind: Kind) -> None:
    scales = (0.3, 0.8)
    kernel = make_kernel(StationarySettings(type=kind, variance=1.3, lengthscale=scales, alpha=0.7), dims=2)
    points = draw(0, 4, 2)
    found = kernel(points, points).to_dense().detach()
    assert found.dtype == torch.float64
    for i in range(4):
        for j in range(4):
            r = math.dist(*((points[k] / torch.tensor(scales, dtype=torch.float64)).tolist() for k in (i, j)))
            assert float(found[i, j]) == pytest.approx(1.3 * FORMULAS[kind](r), abs=1e-9)


def test_a_sum_is_the_sum_of_its_terms() -> None:
    terms = (StationarySettings(lengthscale=0.1), StationarySettings(type="rq", variance=0.5))
    points = draw(1, 5, 3)
    whole = make_kernel(SumSettings(terms=terms), dims=3)(points, points).to_dense()
    each = [make_kernel(term, dims=3)(points, points).to_dense() for term in terms]
    torch.testing.assert_close(whole, each[0] + each[1])


def test_settings_are_distinguished_by_type() -> None:
    adapter = TypeAdapter(KernelSettings)
    assert adapter.validate_python({"type": "rbf", "lengthscale": [0.1, 0.2]}).lengthscale == (0.1, 0.2)
    assert isinstance(adapter.validate_python({"type": "sum", "terms": [{"type": "rq"}]}), SumSettings)
    for wrong in ({"type": "cosine"}, {"type": "rbf", "variance": 0}, {"type": "sum", "terms": []}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_bad_settings_are_rejected_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="lengthscale: got 2 for 3 dimensions; give 3, or one number"):
        make_kernel(StationarySettings(lengthscale=(1.0, 2.0)), dims=3)
    monkeypatch.setitem(sys.modules, "gpytorch.kernels", None)
    with pytest.raises(ConfigError, match="needs the 'tune' extra"):
        make_kernel(StationarySettings(), dims=1)
