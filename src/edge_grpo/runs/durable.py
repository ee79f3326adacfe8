"""Files that survive kills and power cuts: written atomically, and on disk before anything relies on them."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from edge_grpo.base.errors import CheckpointError
from edge_grpo.base.job import resume_command

__all__ = ["flush", "flush_tree", "is_locked", "is_open_as", "remove_tree", "saving", "take_lock", "write_whole"]


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush a folder and everything in it."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


def write_whole(path: Path, text: str) -> None:
    """Replace a file's text atomically: after a kill at any moment, it holds either the old text or the new."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    flush(draft)
    draft.replace(path)
    flush(path.parent)


def remove_tree(folder: Path) -> None:
    """Delete a folder, if it exists; a kill midway leaves nothing under its name."""
    doomed = folder.with_name(f".old_{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def take_lock(name: Path) -> tuple[IO[str], bool]:
    """Create a file if needed, and lock it until it is closed or this process ends, however it ends.

    Returns:
        the open file, and whether it is locked: False if the file system does not support locks.
    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be written.
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
        file.close()  # deleted between opening and locking


def is_locked(name: Path) -> bool:
    """Whether a process holds the lock of :func:`take_lock`; False where there are no locks."""
    try:
        with name.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def is_open_as(file: IO[str], name: Path) -> bool:
    """Whether a path still refers to this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), name.stat())
    except FileNotFoundError:
        return False


@contextmanager
def saving(path: Path | str, run: Path) -> Iterator[None]:
    """Turn the errors of a disk or network while writing ``path`` into one line.

    Args:
        path: what is being written, for the message.
        run: the run's folder, to resume from once the cause is gone.
    Raises:
        CheckpointError: ``path`` could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CheckpointError(
            f"{path}: could not be written ({reason}); {'free some space' if full else 'fix that'}, then resume with: "
            f"{resume_command(run)}"
        ) from error
