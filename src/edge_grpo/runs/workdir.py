"""Resumable work folders: an identity that must match, a lock, and append-only records."""

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
    """Create a folder and hold its lock (if the file system supports locks).

    Raises:
        ConfigError: another process is using the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, _ = take_lock(folder / ".lock")
    except BlockingIOError:
        raise ConfigError(f"--out: {folder}: another process is using it; wait for it to finish") from None
    except OSError as error:
        raise ConfigError(f"--out: {folder} cannot be written ({error.strerror}); choose another folder") from None
    with file:
        yield


def check_identity(folder: Path, identity: Mapping[str, Any], *, what: str, **more: Any) -> None:
    """Record what a new folder's contents depend on, or compare it with what an existing folder recorded.

    Args:
        folder: the work folder.
        identity: plain JSON values.
        what: what the folder holds, for messages, such as ``study``.
        more: stored next to the identity, but not compared.

    Raises:
        ConfigError: the identities differ, or the file cannot be read or written.
    """
    path = folder / IDENTITY
    try:
        if not path.exists():
            if any(not name.startswith(".") for name in os.listdir(folder)):
                raise ConfigError(f"--out: {folder} holds other files but no {what}; choose another folder")
            write_whole(path, json.dumps({**more, "identity": identity}, indent=2) + "\n")
            return
        different = changes(json.loads(path.read_text(encoding="utf-8"))["identity"], identity)
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be read or written ({error}); choose another folder") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"--out: {path} was not written by a {what}; choose another folder") from None
    if different:
        named = "; ".join(f"{name} was {was!r}, is {now!r}" for name, (was, now) in list(different.items())[:3])
        raise ConfigError(f"--out: {folder} holds another {what} ({named}); choose another folder, or omit --out")


def append(path: Path, rows: Iterable["DataclassInstance"]) -> None:
    """Append records to a file as JSON lines, in one write, and wait until they are on disk.

    A kill truncates at most the appended text.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); free some space, then rerun the same command to resume"
        ) from None
