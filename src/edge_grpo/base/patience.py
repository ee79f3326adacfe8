"""A word about work that turns out to take long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["if_it_lasts"]


@contextmanager
def if_it_lasts(tell: Callable[[], object], *, after_s: float = 2.0) -> Iterator[None]:
    """Call a function, in a thread, if a block is not over in time.

    Args:
        tell: says what is being done.
        after_s: seconds until then.
    Example:
        >>> import time
        >>> told = []
        >>> with if_it_lasts(lambda: told.append("quick"), after_s=60):
        ...     pass
        >>> with if_it_lasts(lambda: told.append("slow"), after_s=0.01):
        ...     time.sleep(0.2)
        >>> told
        ['slow']
    """
    timer = threading.Timer(after_s, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
