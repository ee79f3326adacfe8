"""Weights from GPU to GPU: the trainer's end of vLLM's NCCL transfer, written against vLLM 0.32's own functions.

It needs GPUs on both ends, and vLLM in this environment too. It has never run.
"""

import asyncio
import socket
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import urlsplit

import torch
from torch import Tensor

from edge_grpo.rollout.engine import ServerError
from edge_grpo.rollout.vllm.client import Client, Facts

__all__ = ["Broadcast", "check"]

_VERSION: Final = "0.32."
_INSTEAD: Final = "set rollout.engine.transport=folder"


def check(device: torch.device, facts: Facts, server: str) -> None:
    """Whether weights can be broadcast from this process to a server.

    Raises:
        ServerError: they cannot.
    """
    where = "rollout.engine.transport=nccl"
    if device.type != "cuda":
        raise ServerError(f"{where}: the weights to hand over are on the {device.type}, not on a GPU; {_INSTEAD}")
    if facts.device != "cuda":
        raise ServerError(f"{where}: {server} runs on the {facts.device}, not on GPUs; {_INSTEAD}")
    if not facts.vllm.startswith(_VERSION):
        raise ServerError(f"{where}: written for vLLM {_VERSION}x, and {server} runs {facts.vllm}; {_INSTEAD}")
    try:
        own = version("vllm")
    except PackageNotFoundError:
        own = "none"
    if not own.startswith(_VERSION):
        raise ServerError(f"{where}: needs vLLM {_VERSION}x in this environment too, found {own}; {_INSTEAD}")


class Broadcast:
    """An NCCL group of this process, rank 0, and the workers of one server."""

    def __init__(self, group: Any) -> None:
        self._group = group

    @classmethod
    async def join(cls, client: Client, facts: Facts) -> "Broadcast":
        """Meet the workers of a server: both ends block until all are there."""
        common, engine = (
            import_module(f"vllm.distributed.weight_transfer.nccl_{name}") for name in ("common", "engine")
        )
        place = {"master_address": _own_address(client.url), "master_port": _free_port()}
        size = facts.tensor_parallel + 1
        ours = engine.NCCLTrainerInitInfo(**place, world_size=size, rank=0)
        theirs = common.NCCLWeightTransferInitInfo(**place, world_size=size, rank_offset=1, packed=True)
        told = client.join_transfer(common.worker_init_payload(theirs))
        group, _ = await asyncio.gather(asyncio.to_thread(common.trainer_init, ours), told)
        return cls(group)

    @staticmethod
    def announcement(tensors: Sequence[tuple[str, Tensor]]) -> dict[str, Any]:
        """What the workers are told to expect."""
        return {
            "names": [name for name, _ in tensors],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors],
            "shapes": [list(tensor.shape) for _, tensor in tensors],
        }

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Broadcast tensors, all on this GPU, in order."""
        packing = import_module("vllm.distributed.weight_transfer.packed_tensor")
        packing.packed_nccl_broadcast_producer(
            iterator=iter(tensors), group=self._group, src=0, post_iter_func=lambda item: item[1].contiguous()
        )


def _own_address(url: str) -> str:
    """The address under which a server reaches this machine."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
