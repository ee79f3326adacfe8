"""Types of what the fault tests share; the fixtures themselves are in ``conftest.py``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Command", "Pair", "Straight", "Words"]

Command = Callable[..., dict[str, Any]]
"""Runs the words of a command line with the faults of a job and gives the harness's answer."""

Words = Callable[..., list[str]]
"""The command line of a small run: ``words(folder, *more)``."""

Straight = tuple[Path, dict[str, int]]
"""The folder of an uninterrupted run, and how often each moment was passed."""

Pair = tuple[Path, dict[str, dict[str, int]]]
"""The folder of an uninterrupted run of two ranks, and how often each of them ("0", "1") passed each moment."""
