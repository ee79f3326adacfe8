"""``@settings``: the one decorator behind every settings class."""

from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

__all__ = ["settings"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """A frozen, keyword-only pydantic dataclass that rejects unknown names.

    Example:
        >>> @settings
        ... class Example:
        ...     steps: int = 3
        >>> Example(steps=4)
        Example(steps=4)
        >>> Example(stepps=4)
        Traceback (most recent call last):
        ...
        pydantic_core._pydantic_core.ValidationError: ...
    """
    config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
    decorate: Any = dataclass(frozen=True, kw_only=True, config=config)
    decorated: type[T] = decorate(cls)
    return decorated
