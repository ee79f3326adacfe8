"""What a reward function may return for a batch: any kind of list, an array, columns of parts, now or to be awaited."""

import inspect
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

__all__ = ["entries"]


def entries(result: Any, count: int) -> list[object] | str:
    """The entries in a function's result, one per row; runs in a worker, which the deadline of the call ends.

    Args:
        result: a list, tuple, iterator, array, tensor or series of ``count`` entries, a mapping of part names to such
            columns, or an awaitable or asynchronous iterator of any of these; entries may be awaitable, too.
        count: the number of rows.

    Returns:
        the entries, or what is wrong with the result.
    """
    if inspect.isawaitable(result) or hasattr(result, "__aiter__"):
        result = _run(_awaited(result))
    found = _listed(result, count)
    if isinstance(found, list) and any(map(inspect.isawaitable, found)):
        found = [*_run(_gathered(found))]
    return found


def _listed(result: Any, count: int) -> list[object] | str:
    wanted, kind = f"want a list of {count}", type(result).__name__
    if isinstance(result, Mapping):
        columns = {str(name): _listed(values, count) for name, values in result.items()}
        if not columns or any(isinstance(column, str) for column in columns.values()):
            return f"the function returned a {kind}, {wanted}, or lists of {count} by part"
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if len(shape := tuple(getattr(result, "shape", ()))) > 1:
        return f"the function returned a {kind} of shape {shape}, {wanted} numbers"
    if hasattr(result, "tolist"):  # an array, a tensor, a series: their packages need not be imported here
        result = result.tolist()
    if isinstance(result, str | bytes | set | frozenset) or not isinstance(result, Iterable):
        return f"the function returned a {kind}, {wanted}"
    found = result if isinstance(result, list) else list(islice(result, count + 1))
    if len(found) != count:
        endless = "" if isinstance(result, list | tuple) or len(found) < count else " or more"
        return f"the function returned {len(found)}{endless} entries, {wanted}"
    return found


async def _awaited(result: Any) -> object:
    return [entry async for entry in result] if hasattr(result, "__aiter__") else await result


async def _gathered(found: Iterable[object]) -> list[object]:
    import asyncio  # noqa: PLC0415 (as below)

    async def one(entry: object) -> object:
        return await entry if isinstance(entry, Awaitable) else entry

    return await asyncio.gather(*map(one, found))


@lru_cache(maxsize=1)
def _runner() -> Any:
    """One event loop for all calls in this process: clients that a function caches stay connected."""
    import asyncio  # noqa: PLC0415 (needed by asynchronous functions only; settings are read without it)

    return asyncio.Runner()


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return _runner().run(coroutine)
