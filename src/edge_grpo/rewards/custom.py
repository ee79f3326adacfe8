"""A custom reward function: locating it, checking its signature, and calling it in a worker."""

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.rewards.results import entries
from edge_grpo.rewards.styles import STYLES, Batch

__all__ = ["Entry", "call", "check", "locate"]

MAX_REWARD = 1e30  # larger numbers are rejected: float32 must hold sums of them

_PACKAGE = f"{Path(__file__).parents[1]}/"
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))

Entry = dict[str, float | str] | float | str | None  # for one row; text shows a value that is not a number


def locate(path: str) -> str:
    """The function's path, made independent of the current folder; checks what it can without importing.

    Args:
        path: ``path/to/file.py:name``, ``package.module:name``, or ``folder/package.module:name``, where ``folder`` is
            the one to import from.

    Returns:
        The path with an absolute file, with an absolute folder before a module of the current folder, or unchanged for
        an installed module.

    Raises:
        ConfigError: the path has none of these forms, or there is no such file.
    """
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ConfigError(f"reward.function: got {path!r}, want 'package.module:name' or 'path/to/file.py:name'")
    try:
        file = Path(place).expanduser()
        if not place.endswith(".py"):
            module = file.parent.joinpath(*file.name.split("."))
            found = any(one.is_file() for one in (Path(f"{module}.py"), module / "__init__.py"))
            return f"{file.parent.resolve() / file.name}:{name}" if found else path
        file = file.resolve()
        found = file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, an unreadable folder, odd characters
        raise ConfigError(f"reward.function: {place!r} cannot be accessed: {error}") from None
    if not found:
        raise ConfigError(f"reward.function: no such file: {place!r} (looked for {file})")
    return f"{file}:{name}"


@lru_cache(maxsize=8)
def _load(path: str) -> Callable[..., Any]:
    place, _, name = path.rpartition(":")
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).parent))  # so that it finds its neighbours, as `python FILE` does
        spec = importlib.util.spec_from_file_location(f"_reward_{Path(place).stem}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            if "relative import" not in str(error):
                raise
            package = Path(place).parent
            better = f"{package.parent}/{package.name}.{Path(place).stem}:{name}"
            raise ImportError(f"{error}; name the module instead of the file: reward.function={better}") from None
    else:
        folder, slash, dotted = place.rpartition("/")
        if slash:
            sys.path.insert(0, folder)
        module = importlib.import_module(dotted)
    function = getattr(module, name, None)
    if not callable(function):
        raise TypeError(f"{place} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def check(path: str, style: str = "own") -> str:
    """Runs in a worker: what is wrong with the function's parameters; empty if nothing is.

    Raises:
        BaseException: whatever the user's module raises, and ``inspect`` for a function without a signature.
    """
    with _locating():
        function = _load(path)
    return STYLES[style].complaint(inspect.signature(function))


def call(path: str, batch: Batch, style: str = "own") -> list[Entry] | str:
    """Runs in a worker: the entries as plain numbers, since other processes may not know their classes.

    Returns:
        One entry per row, or what is wrong with the function's result.
    Raises:
        BaseException: whatever the function raises, with a note that names the file and line.
    """
    with _locating():
        function = _load(path)
        returned = STYLES[style].call(function, batch)
        found = entries(returned, len(batch.problems))
    return found if isinstance(found, str) else [_plain(STYLES[style].entry(entry)) for entry in found]


@contextmanager
def _locating() -> Iterator[None]:
    """Add the file and line to an exception of the user's code: the innermost line that belongs to no library."""
    try:
        yield
    except BaseException as error:
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        outside = [place for place in places if not place[0].startswith(("<", _PACKAGE))]
        own = [place for place in outside if not place[0].startswith(_LIBRARIES)]
        if outside:
            file, line = own[-1] if own else outside[0]
            error.add_note(f"{file}:{line}")
        raise


def _plain(entry: object) -> Entry:
    if entry is None or not isinstance(entry, Mapping):
        return None if entry is None else _number(entry)
    return {str(name): _number(value) for name, value in entry.items() if not (name == "correct" and value is None)}


def _number(value: object) -> float | str:
    """The value as a float, numpy scalars included; text that shows it if it is not a usable number."""
    shown = f"{value!r:.80}"
    if isinstance(value, (str, bytes)):
        return shown
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  (a tensor of two elements, or anything a class may raise)
        return shown
    return number if abs(number) <= MAX_REWARD else shown
