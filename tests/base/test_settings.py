"""Settings are frozen, keyword-only, and reject unknown names."""

import dataclasses

import pytest
from pydantic import Field, ValidationError

from edge_grpo.base.settings import settings


@settings
class Inner:
    x: float = Field(default=0.5, gt=0)


@settings
class Outer:
    inner: Inner = Field(default_factory=Inner)
    n: int = 1


def test_unknown_names_and_wrong_values_are_rejected() -> None:
    for bad in ({"m": 1}, {"n": "one"}, {"inner": {"x": -1}}, {"inner": {"y": 1}}, {"inner": {"x": float("nan")}}):
        with pytest.raises(ValidationError):
            Outer(**bad)


def test_settings_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outer().n = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Outer(2)  # type: ignore[misc]
    assert Outer(inner={"x": 2}).inner == Inner(x=2.0)
