"""What was found about one thing, and a way to check that never fails itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "State", "checked", "failure"]


class State(StrEnum):
    """``fine``; ``note``: only some runs need what is missing; ``broken``: no run would work, or none as it is set."""

    FINE = "fine"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what was found and, unless it is fine, what to do."""

    topic: str
    state: State
    text: str
    fix: str = ""


def failure(work: Callable[[], object]) -> str:
    """Why something fails, on one line; empty if it does not."""
    try:
        work()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a damaged package may raise anything, or exit
        return _line(error)
    return ""


def checked(topic: str, check: Callable[[], Iterable[Finding]], *, fix: str = "") -> Iterator[Finding]:
    """What a check finds; if the check itself fails, this is the finding."""
    try:
        yield from check()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        yield Finding(topic, State.BROKEN, f"cannot be checked ({_line(error)})", fix)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
