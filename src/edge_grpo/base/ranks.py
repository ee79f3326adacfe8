"""Which process of a job this one is, as torchrun or ``--processes`` says in the environment; imports no torch."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TextIO

__all__ = ["RENDEZVOUS", "is_first_rank", "own_rank", "quiet_ranks"]

RENDEZVOUS: Final = "EDGE_GRPO_RENDEZVOUS"
"""The environment variable by which ``--processes`` names a file for its processes to meet in."""


def own_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank; None if it works alone.

    Example:
        >>> own_rank({}), own_rank({"RANK": "1", "WORLD_SIZE": "2"})
        (None, 1)
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    return int(environment["RANK"])


def is_first_rank() -> bool:
    """Whether this process writes files and speaks to the user: rank 0, or one that works alone."""
    return own_rank() in (None, 0)


@contextmanager
def quiet_ranks() -> Iterator[None]:
    """Inside the block, only rank 0 writes to stdout, and lines of other ranks on stderr begin with their rank."""
    if is_first_rank():
        yield
        return
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = nowhere, _Prefixed(before[1], f"rank {own_rank()}: ")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Prefixed:
    """A text stream that begins every line with a prefix; not a terminal, whatever is behind it."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._begun = stream, prefix, False

    def write(self, text: str) -> int:
        """Write text; a line is prefixed once, however many calls make it up."""
        for line in text.splitlines(keepends=True):
            self._stream.write(line if self._begun else self._prefix + line)
            self._begun = not line.endswith("\n")
        return len(text)

    def isatty(self) -> bool:
        """No."""
        return False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
