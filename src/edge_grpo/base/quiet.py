"""Holds back what other libraries log until it is clear whether the user needs it; silences a closed output."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_failures", "silence_stdout"]

_LIBRARIES = ("datasets", "huggingface_hub", "transformers")


class _Buffer(logging.Handler):
    """Collects records instead of emitting them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one record."""
        self.records.append(record)


@contextmanager
def quiet_failures() -> Iterator[None]:
    """Hold back what the Hugging Face libraries log: shown if the block succeeds, dropped if it raises.

    Their warnings and retries before an error say less than the one-line message that follows.
    """
    held = _Buffer()
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [held], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
    for record in held.records:
        logging.getLogger(record.name).handle(record)


def silence_stdout() -> None:
    """Send the rest of standard output nowhere: its reader is gone, and flushing it at exit would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
