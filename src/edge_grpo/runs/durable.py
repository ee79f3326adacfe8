"""Files that outlive a kill and a power cut: whole or not there, and on the disk before anything relies on them."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from edge_grpo.base.errors import CheckpointError

__all__ = ["flush", "flush_tree", "is_open_as", "remove_tree", "saving", "take_lock", "write_whole"]


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's list of names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """The same for a folder with everything in it."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


def write_whole(path: Path, text: str) -> None:
    """Replace a file by one with this text; after a kill at any moment it holds the old text or the new one."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    flush(draft)
    draft.replace(path)
    flush(path.parent)


def remove_tree(folder: Path) -> None:
    """Delete a folder so that a kill in the middle leaves nothing under its name; no folder, nothing to do."""
    doomed = folder.with_name(f".old_{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def take_lock(name: Path) -> tuple[IO[str], bool]:
    """Lock a file, which is made, until it is closed or this process ends in whatever way.

    Returns:
        the open file, and whether it is locked: False where the file system knows no locks.
    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be written.
    """
    while True:
        file, locked = name.open("a"), True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            locked = False
        if is_open_as(file, name):
            return file, locked
        file.close()  # it was deleted between opening and locking


def is_open_as(file: IO[str], name: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), name.stat())
    except FileNotFoundError:
        return False


@contextmanager
def saving(path: Path, run: Path) -> Iterator[None]:
    """Turn what a full or unwritable disk raises while ``path`` is written into one line.

    Args:
        path: what is written inside.
        run: the run's folder, which can be gone on with when there is room again.
    Raises:
        CheckpointError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: could not be written ({reason}); mend that (make room, for example), then go on with: "
            f"edge-grpo train --resume {run}"
        ) from error
