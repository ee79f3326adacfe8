"""Weights on their way to the servers: safetensors in a folder that appears as a whole, named after their version."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import torch
from torch import Tensor

from edge_grpo.base.errors import EngineError
from edge_grpo.models.adapters import quiet_peft
from edge_grpo.models.policy import Policy

__all__ = ["BASE", "Handover"]

BASE: Final = "base"
"""The folder of the frozen weights under adapters, which stays as long as the session."""

_PREFIX: Final = "edge-grpo-weights-"
_ALIVE: Final = ".alive"


class Handover:
    """A folder of this session alone, in which the newest weights lie in a folder of their own.

    A draft is renamed once it is complete, so that a server never reads half of it. What sessions on this machine that
    were killed have left in the temporary folder is removed.

    Args:
        folder: where; empty = the system's temporary folder.
        session: names the folder.
        file_bytes: about how large a file is; tensors are copied to the CPU a file at a time.
    Raises:
        EngineError: the folder cannot be written.
    """

    def __init__(self, folder: str, session: str, *, file_bytes: int = 2**31) -> None:
        self._file_bytes = file_bytes
        parent = Path(folder).expanduser() if folder else Path(tempfile.gettempdir())
        self.root = parent.absolute() / f"{_PREFIX}{session}"
        with _writing(self.root):
            if folder:
                self.root.mkdir(parents=True, exist_ok=True)
            else:
                self.root.mkdir(mode=0o700, exist_ok=True)
                _remove_orphans(parent)
            self._alive = (self.root / _ALIVE).open("w")
            _try_lock(self._alive)

    def path(self, name: str) -> Path:
        """Where the weights of a version are, or will be."""
        return self.root / name

    def write(self, name: str, tensors: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype | None = None) -> Path:
        """Write tensors; older ones are removed.

        Args:
            name: the new folder's.
            tensors: by their Hugging Face names.
            dtype: of the files; None = as they are.
        Raises:
            EngineError: the disk is full or not writable.
        """
        from safetensors.torch import save_file  # noqa: PLC0415

        with self._draft(name) as draft:
            for number, part in enumerate(_parts(tensors, dtype, self._file_bytes)):
                save_file(part, draft / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        return self.path(name)

    def write_adapter(self, name: str, policy: Policy) -> Path:
        """Write the policy's adapters in peft's format; older ones are removed.

        Raises:
            EngineError: the disk is full or not writable.
        """
        with self._draft(name) as draft, quiet_peft():
            policy.model.save_pretrained(draft, save_embedding_layers=False)
        return self.path(name)

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        draft = self.root / ".draft"
        with _writing(self.root):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            yield draft
            shutil.rmtree(self.path(name), ignore_errors=True)
            draft.rename(self.path(name))
            for old in self.root.iterdir():
                if old.is_dir() and old.name not in (name, BASE):
                    shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        self._alive.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _parts(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, most: int) -> Iterator[dict[str, Tensor]]:
    """The contents of files of about ``most`` bytes each, on the CPU."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        part[name] = tensor.to("cpu", target).contiguous()
        size += part[name].nbytes
        if size >= most:
            yield part
            part, size = {}, 0
    if part:
        yield part


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"rollout.engine.folder: weights cannot be written to {root} ({error.strerror or error}); name a folder "
            "that this process and the servers see, with room for the model twice"
        ) from error


def _remove_orphans(parent: Path) -> None:
    """Remove the folders of sessions that no process holds any more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / _ALIVE).open("r+") as file:
            if _try_lock(file):
                shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
