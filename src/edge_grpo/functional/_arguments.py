"""Checks at the front door: a tensor of the wrong kind, shape or value is rejected by the argument's name."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from torch import Tensor

from edge_grpo.base.errors import ShapeError

__all__ = ["checked", "require_finite"]

P = ParamSpec("P")
R = TypeVar("R")

_ADVICE: Final = {"bool": "booleans: {}.bool()", "int": "integers: {}.long()", "float": "floats: {}.float()"}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check tensor arguments against the function's annotations: kind, number of dimensions, and equal sizes.

    Torch reports an integer mask or an integer reward from the depths of some operation, or computes with it.

    Raises:
        ShapeError: on a call with a wrong tensor; names the argument, what it is and what was wanted.
    """
    parameters = inspect.signature(function).parameters
    wanted = {name: found for name, each in parameters.items() if (found := _tensor_annotation(each.annotation))}
    places = {name: place for place, name in enumerate(parameters)}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {
            name: args[places[name]] if places[name] < len(args) else kwargs.get(name)
            for name in wanted
            if places[name] < len(args) or name in kwargs
        }
        _check(given, wanted)
        return function(*args, **kwargs)

    return call


def require_finite(where: Tensor, **named: Tensor) -> None:
    """Reject NaN and infinity in one of the named tensors.

    Args:
        where: True where a value counts; the others may be anything.
        named: the tensors, by argument name, of the same shape as ``where``.
    Raises:
        ShapeError: names the argument and how many values are not finite.
    """
    for name, values in named.items():
        bad = ~values.detach().isfinite() & where
        if bool(bad.any()):
            raise ShapeError(
                f"{name}: {int(bad.sum())} of {int(where.sum())} values are NaN or infinite (the first at "
                f"{bad.nonzero()[0].tolist()}), wanted finite numbers; exclude rows that could not be scored"
            )


def _tensor_annotation(annotation: Any) -> Any:
    """The jaxtyping annotation of a parameter, or None."""
    for each in (annotation, *typing.get_args(annotation)):
        if hasattr(each, "dtypes") and hasattr(each, "dim_str"):
            return each
    return None


def _check(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    sizes: dict[str, tuple[str, int]] = {}
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise ShapeError(f"{name}: got {type(value).__name__}, wanted a tensor; pass torch.as_tensor({name})")
        kind = _kind(wanted[name].dtypes[0])
        if _kind(str(value.dtype)) != kind:
            raise ShapeError(f"{name}: got a tensor of {value.dtype}, wanted {_ADVICE[kind].format(name)}")
        dims = wanted[name].dim_str.split()
        if any(not dim.isidentifier() for dim in dims):  # any shape: torch compares those itself
            continue
        if len(dims) != value.dim():
            raise ShapeError(f"{name}: got a tensor of shape {list(value.shape)}, wanted [{', '.join(dims)}]")
        for dim, size in zip(dims, value.shape, strict=True):
            other, known = sizes.setdefault(dim, (name, size))
            if known != size:
                raise ShapeError(f"{name}: got {size} {dim}, but '{other}' has {known}")


def _kind(dtype: str) -> str:
    return next((kind for kind in _ADVICE if kind in dtype), dtype)
