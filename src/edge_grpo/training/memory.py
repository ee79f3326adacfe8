"""Running out of memory while training: which phase it was, and which setting to lower."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.memory import is_out_of_memory
from edge_grpo.config.tree import Config

__all__ = ["NoMemoryLeftError", "bounded_by"]

P = ParamSpec("P")
T = TypeVar("T")


class NoMemoryLeftError(TrainingError):
    """Memory ran out.

    Args:
        message: in which phase, and how much was asked for.
        setting: the one that bounds this phase's memory.
        value: a lower value for it; 0 if it is 1 already.
        intact: whether the weights are still those after the last step, so that they can be saved.
        shared: whether all ranks learned of it.
    """

    def __init__(self, message: str, *, setting: str, value: int, intact: bool, shared: bool = False) -> None:
        super().__init__(message)
        self.setting, self.value, self.intact = setting, value, intact
        self.shared = shared


@runtime_checkable
class _Phased(Protocol):
    config: Config

    @property
    def intact(self) -> bool:
        """Whether no update of the current step has begun to change anything."""
        ...


S = TypeVar("S", bound=_Phased)


def bounded_by(setting: str, phase: str) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Make a phase of a step end with :class:`NoMemoryLeftError` if memory runs out.

    Args:
        setting: ``rollout.max_rows`` or ``train.micro_batch_rows``: how many rows it holds in memory at once.
        phase: what it does.
    """

    def wrap(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        @wraps(method)
        def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(self, *args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                shared = getattr(error, "shared", False)
                asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
            # raised here, where the failed frames and their tensors are gone
            message = f"out of memory while {phase}" + (f" (asked for {asked[1]})" if asked else "")
            raise NoMemoryLeftError(
                message,
                setting=setting,
                value=_rows(self.config, setting) // 2,
                intact=self.intact,
                shared=shared,
            )

        return guarded

    return wrap


def _rows(config: Config, setting: str) -> int:
    """How many rows are in memory at once: what the setting allows, or fewer if a step or an evaluation has fewer."""
    step = config.rollout.prompts_per_step * config.rollout.group_size
    if setting == "train.micro_batch_rows":
        return min(config.train.micro_batch_rows, step)
    return min(config.rollout.max_rows, max(step, config.eval.num_problems * config.eval.samples))
