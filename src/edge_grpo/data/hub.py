"""Saved and hub datasets: their rows, and one line if they cannot be loaded."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edge_grpo.base.errors import DataError
from edge_grpo.base.quiet import quiet_failures

__all__ = ["Part", "dataset_rows", "is_saved"]

_SAVED = ("dataset_dict.json", "state.json")  # one of them is in every folder written by save_to_disk
_AT_ONCE = 100  # rows with images
_SUBSETS = re.compile(  # the words of the package datasets: with a network, and offline, from its cache
    r"(?:available configs|not found\. Available|Available configs in the cache|configurations in the cache): "
    r"\[?(?P<names>[^\]\n]+)"
)


class Part(NamedTuple):
    """Which part of a dataset to read, and the settings that choose it."""

    split: str
    split_setting: str
    subset: str
    subset_setting: str


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``; any other is read as a copy of a hub dataset."""
    return any((folder / name).is_file() for name in _SAVED)


def dataset_rows(name: str, part: Part, *, saved: bool) -> Iterable[object]:
    """The rows of one split of a dataset.

    Args:
        name: a ``save_to_disk`` folder if ``saved``; otherwise a hub name, or a folder laid out like a hub dataset.
        part: which split and subset.
        saved: how it is stored.
    """
    try:
        import datasets  # noqa: PLC0415 (heavy, and needed for datasets only)
    except ImportError:
        raise DataError(f"{name}: reading a dataset needs the package 'datasets' (pip install datasets)") from None
    if saved and part.subset:
        raise DataError(f"{part.subset_setting}: {name} was written by save_to_disk and has no subsets; leave it empty")
    subset = (part.subset,) if part.subset else ()
    try:
        with quiet_failures():
            found: Any = (
                datasets.load_from_disk(name) if saved else datasets.load_dataset(name, *subset, split=part.split)
            )
    except Exception as error:  # noqa: BLE001 (the library and its file systems raise errors of many kinds)
        cause = error.__cause__ or error  # of "An error occurred while generating the dataset"
        reason = str(cause).strip() or type(cause).__name__
        raise DataError(f"{name}: {_unloadable(name, part, reason, saved=saved)}") from None
    if isinstance(found, dict):
        if part.split not in found:
            splits = ", ".join(map(repr, found))
            raise DataError(f"{name}: no split {part.split!r}; it has {splits}. Set {part.split_setting}")
        found = found[part.split]
    rows: Iterable[object] = _stored(found) if "Image(" in str(getattr(found, "features", "")) else found
    return rows


def _stored(dataset: Any) -> Iterator[object]:
    """The rows with their images as they are stored: the package would decode every one of them."""
    for table in dataset.with_format("arrow").iter(_AT_ONCE):
        yield from table.to_pylist()


def _unloadable(name: str, part: Part, reason: str, *, saved: bool) -> str:
    """Why a dataset cannot be loaded, and which setting helps."""
    lines = reason.splitlines()
    if not saved and (found := _SUBSETS.search(reason)):
        wrong = f"no subset {part.subset!r}" if part.subset else "several subsets"
        return f"{wrong}; it has {found['names']}. Set {part.subset_setting}"
    if not saved and lines[0].startswith("Unknown split"):
        return f"{lines[0].rstrip('.')}. Set {part.split_setting}"
    if Path(name).is_dir() and not saved:
        return f"this folder cannot be read as a dataset ({lines[0].rstrip('.')}); name a file in it"
    kind = "saved dataset" if saved else f"hub dataset (split {part.split!r})"
    hint = "" if saved else " No such file or folder exists either"
    return f"cannot be loaded as a {kind}: {lines[0].rstrip('.')}.{hint}"
