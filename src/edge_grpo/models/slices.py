"""Tensors on disk as safetensors, whole or in slices: what any number of ranks wrote, any number reads."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from edge_grpo.base.errors import CheckpointError
from edge_grpo.base.world import World

__all__ = ["fit", "read", "shapes", "write"]

_WRITTEN = re.compile(r"shard-(\d+)-model-(\d+)-of-\d+\.safetensors")


def write(folder: Path, files: Mapping[str, Mapping[str, Tensor]], world: World) -> None:
    """Write tensors, each rank its slices: ``weights.safetensors`` of one rank, ``weights-00001-of-00002...`` of two.

    Args:
        folder: an empty folder that all ranks see.
        files: tensors by name, by the beginning of the name of their files; no tensor name occurs twice.
        world: the ranks.
    Raises:
        OSError, SafetensorError: the disk is full or not writable.
    """
    numbers = {name: number for number, own in enumerate(files.values(), 1) for name in own}
    tensors = {name: tensor.detach().contiguous() for own in files.values() for name, tensor in own.items()}
    with _plainly():
        writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
        save(tensors, storage_writer=writer, no_dist=world.group is None)
    world.first(lambda: _rename(folder, list(files), world.size))


def _rename(folder: Path, stems: list[str], size: int) -> None:
    """Give files the names of what is in them."""
    for file in folder.glob("shard-*.safetensors"):
        found = _WRITTEN.fullmatch(file.name)
        assert found, file
        rank, stem = int(found[1]), stems[int(found[2]) - 1]
        file.rename(folder / (f"{stem}.safetensors" if size == 1 else f"{stem}-{rank:05}-of-{size:05}.safetensors"))


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a folder, by name; read from the heads of its files.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(each.size) for name, each in found.items()}  # type: ignore[union-attr]


def read(folder: Path, into: Mapping[str, Tensor], world: World | None = None) -> None:
    """Fill tensors, or this rank's slices of them, with those of the same names.

    Args:
        folder: written by :func:`write`.
        into: overwritten in place.
        world: the ranks that read together; None = this process reads by itself.
    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    alone = world is None or world.group is None
    with _plainly(), torch.no_grad():
        targets = {name: tensor.detach() for name, tensor in into.items()}
        load(targets, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)


def fit(checkpoint: Path, trained: Mapping[str, Tensor], held: Mapping[str, tuple[int, ...]]) -> None:
    """Make sure that a checkpoint holds the weights of a model, and no others.

    Args:
        checkpoint: for the message.
        trained: the model's trained weights by name.
        held: the shapes of those in the checkpoint.
    Raises:
        CheckpointError: they have other names or shapes.
    """
    if {name: tuple(weight.shape) for name, weight in trained.items()} != dict(held):
        raise CheckpointError(
            f"{checkpoint}: its weights do not fit the model of this run; was model.path changed on disk?"
        )


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise what went wrong on a rank, and not the wrapper around it; a single process is no reason to warn."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, RuntimeError | ValueError | AssertionError) and not isinstance(cause, SafetensorError):
            raise SafetensorError(str(cause)) from error
        raise cause from error
