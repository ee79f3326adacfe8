"""The tensor records are frozen."""

import dataclasses

from edge_grpo.base import tensors


def test_records_are_frozen() -> None:
    for name in tensors.__all__:
        assert dataclasses.is_dataclass(getattr(tensors, name))
        assert getattr(tensors, name).__dataclass_params__.frozen
