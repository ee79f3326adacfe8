"""Folders of work that goes on where it was cut off: whose they are, one process at a time, and lines that stay."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import changes
from edge_grpo.runs.durable import take_lock, write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["IDENTITY", "append", "check_identity", "opened"]

IDENTITY = "identity.json"


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes out of it while inside (where the file system knows locks).

    Raises:
        ConfigError: another process is at work there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, _ = take_lock(folder / ".lock")
    except BlockingIOError:
        raise ConfigError(f"--out: {folder}: another process is at work there; wait for it") from None
    except OSError as error:
        raise ConfigError(f"--out: {folder} cannot be written ({error.strerror}); name another folder") from None
    with file:
        yield


def check_identity(folder: Path, identity: Mapping[str, Any], *, what: str, **more: Any) -> None:
    """Write down what a new folder's content depends on; compare it where the folder is not new.

    Args:
        folder: what is there.
        identity: plain values, as JSON has them.
        what: the folder holds, for messages, such as ``study``.
        more: is written beside the identity and not compared.

    Raises:
        ConfigError: the content depends on something else, or the file cannot be read or written.
    """
    path = folder / IDENTITY
    try:
        if not path.exists():
            if any(not name.startswith(".") for name in os.listdir(folder)):
                raise ConfigError(f"--out: {folder} holds other files and no {what}; name another folder")
            write_whole(path, json.dumps({**more, "identity": identity}, indent=2) + "\n")
            return
        different = changes(json.loads(path.read_text(encoding="utf-8"))["identity"], identity)
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be read or written ({error}); name another folder") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"--out: {path} is not what a {what} writes there; name another folder") from None
    if different:
        named = "; ".join(f"{name} was {was!r}, is {now!r}" for name, (was, now) in list(different.items())[:3])
        raise ConfigError(f"--out: {folder} holds another {what} ({named}); name another folder, or none")


def append(path: Path, rows: Iterable["DataclassInstance"]) -> None:
    """Add records to a file, a JSON line each, in one write, and wait until they are on the disk.

    A kill cuts off at most the end of what is added.

    Raises:
        ConfigError: they cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); make room, and the same command goes on from here"
        ) from None
