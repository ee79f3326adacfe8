"""How many CPU cores this process may use."""

import os

__all__ = ["num_cores"]


def num_cores() -> int:
    """The cores that this process may run on, at least 1; those of the machine where that cannot be asked."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
