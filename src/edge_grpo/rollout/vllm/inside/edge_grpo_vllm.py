"""The part of edge-grpo that runs inside a vLLM server: new weights from a folder or over NCCL, and a guarded door.

Self-contained: it imports vLLM and what vLLM brings, never edge-grpo, so the server may run in an environment of its
own. ``edge-grpo serve`` puts this file's folder on the server's PYTHONPATH; vLLM's options name the classes below.

Written against vLLM 0.32. The folder transfer is tested on CPUs. The NCCL transfer needs GPUs and has never run.
"""

import hashlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import vllm
from safetensors import SafetensorError, safe_open
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from vllm import envs
from vllm.distributed.parallel_state import get_world_group
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

__all__ = ["Door", "Extension", "Transfer", "Update"]

Shapes = Mapping[str, tuple[int, ...]]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PROTOCOL: Final = 1
_NCCL_VERSIONS: Final = ("0.32.",)
_PREFIXES: Final = ("model.", "transformer.", "gpt_neox.", "backbone.")  # a bare model is saved without its prefix
_BUFFERS: Final = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias")  # some files hold them
_HEADS: Final = ("lm_head.weight", "embed_out.weight")
_CLOSED: Final = ("/collective_rpc",)  # runs any method of the workers
_PARENT: Final = "EDGE_GRPO_SERVE_PID"


class Extension:
    """Named by ``--worker-extension-cls``, so that workers import this file before they look up the transfer."""


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass
class Update(WeightTransferUpdateInfo):
    """What a trainer sends: the folder of the new weights, or what it is about to broadcast over NCCL."""

    path: str = ""
    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class Transfer(WeightTransferEngine[NCCLWeightTransferInitInfo, Update]):
    """Takes over all weights of the model at once, under their Hugging Face names.

    Everything that can be wrong with new weights is found before the model is touched, on all ranks together: a bad
    folder is an error, and the server keeps the weights it had. If loading fails later, the reload is deliberately
    left unfinished: vLLM then dies at its next request, instead of sampling from a mixture of old and new weights.
    """

    init_info_cls = NCCLWeightTransferInitInfo
    update_info_cls = Update
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._nccl = NCCLWeightTransferEngine(config, vllm_config, device, model)
        self._broadcasting = False
        self._wanted = shapes_of(vllm_config.model_config.model)  # now: the folder may change later
        self._tied = bool(getattr(vllm_config.model_config.hf_text_config, "tie_word_embeddings", False))

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Join the trainer's NCCL group; a folder needs no preparation."""
        if not vllm.__version__.startswith(_NCCL_VERSIONS):
            raise RuntimeError(
                f"edge-grpo: NCCL transfer is written against vLLM {', '.join(_NCCL_VERSIONS)}x, this is "
                f"{vllm.__version__}; use rollout.engine.transport=folder"
            )
        self._nccl.init_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        """Touch nothing before the new weights are known to be good."""
        self._broadcasting = False

    def receive_weights(self, update_info: Update) -> None:
        """Check the new weights, then load them.

        Raises:
            ValueError: they are not this model's; nothing has changed.
        """
        if update_info.path:
            weights: dict[str, torch.Tensor] = {}
            self._together(lambda: weights.update(self._checked(Path(update_info.path))))
            initialize_layerwise_reload(self.model)
            self.model.load_weights(iter(weights.items()))
            self._finish()
            return
        given = {name: tuple(shape) for name, shape in zip(update_info.names, update_info.shapes, strict=True)}
        self._together(lambda: check_shapes(given, self._wanted, tied=self._tied))
        self._nccl.start_weight_update()
        self._broadcasting = True
        self._nccl.receive_weights(
            NCCLWeightTransferUpdateInfo(update_info.names, update_info.dtype_names, update_info.shapes)
        )

    def finish_weight_update(self) -> None:
        """Put broadcast weights into use; weights from a folder are in use already."""
        if self._broadcasting:
            self._finish()
            self._broadcasting = False

    def shutdown(self) -> None:
        """Leave the trainer's NCCL group."""
        self._nccl.shutdown()

    def _checked(self, folder: Path) -> dict[str, torch.Tensor]:
        check_shapes(shapes_of(folder), self._wanted, tied=self._tied)
        weights = read(folder)
        check_values(weights, tied=self._tied)
        return weights

    def _together(self, prepare: Callable[[], object]) -> None:
        """Do something on all ranks; if it fails on any of them, raise on all of them."""
        reason = ""
        try:
            prepare()
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            reason = str(error) or type(error).__name__
        group = get_world_group()
        failed = torch.tensor([bool(reason)], dtype=torch.int32)
        torch.distributed.all_reduce(failed, group=group.cpu_group)
        if failed.item():
            raise ValueError(f"edge-grpo: {reason or 'another rank of the server cannot read these weights'}")

    def _finish(self) -> None:
        for name, layer in self.model.named_modules():
            info = get_layerwise_info(layer)
            own = [own for own, _ in layer.named_parameters(recurse=False)]
            if own and info.can_load() and not info.load_numel and not self._is_tied_head(layer):
                raise RuntimeError(f"edge-grpo: vLLM did not load {name}.{own[0]}; the server stops serving")
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            if self._is_tied_head(layer):  # on CPUs it keeps a packed copy of the old embedding
                layer.quant_method.process_weights_after_loading(layer)

    def _is_tied_head(self, layer: torch.nn.Module) -> bool:
        return self._tied and isinstance(layer, ParallelLMHead)


def shapes_of(folder: Path | str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a folder's safetensors files, from their headers.

    Raises:
        OSError, SafetensorError: a file cannot be read, or is incomplete.
        ValueError: there is no such file, or two hold one tensor.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                if name in found:
                    raise ValueError(f"two files of {folder} hold {name}")
                found[name] = tuple(opened.get_slice(name).get_shape())
    return found


def read(folder: Path | str) -> dict[str, torch.Tensor]:
    """All tensors of a folder, on the CPU; raises as :func:`shapes_of` does."""
    weights: dict[str, torch.Tensor] = {}
    for file in _files(folder):
        with _opened(file) as opened:
            weights |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return weights


def _files(folder: Path | str) -> list[Path]:
    """Those that an index names, for a folder may hold a model twice; without an index, all."""
    index = Path(folder) / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [Path(folder) / name for name in sorted(set(listed))]
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ValueError(f"no safetensors files in {folder}, as this server sees it")
    return files


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error})") from error


def check_shapes(given: Shapes, wanted: Shapes, *, tied: bool) -> None:
    """Reject weights that are not those of the folder the server was started from.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape; names up to three.
    """
    ours, theirs = _comparable(wanted, tied=tied), _comparable(given, tied=tied)
    if missing := ours.keys() - theirs.keys():
        raise ValueError(f"the new weights lack {_listed(missing)}")
    if unknown := theirs.keys() - ours.keys():
        raise ValueError(f"the new weights hold {_listed(unknown)}, which the served model lacks")
    if other := [
        f"{name} {list(theirs[name])} instead of {list(ours[name])}" for name in ours if theirs[name] != ours[name]
    ]:
        raise ValueError(f"the new weights have other shapes: {_listed(other)}")


def _comparable(shapes: Shapes, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Without the model's prefix, buffers that are computed anyway, and a head that is the embedding."""
    found = {}
    for name, shape in shapes.items():
        if name.endswith(_BUFFERS) or (tied and name in _HEADS):
            continue
        prefix = next((each for each in _PREFIXES if name.startswith(each)), "")
        found[name.removeprefix(prefix)] = tuple(shape)
    return found


def check_values(weights: Mapping[str, torch.Tensor], *, tied: bool) -> None:
    """Reject NaN and inf, and a head that a tied model would ignore.

    Raises:
        ValueError: names up to three tensors.
    """
    if broken := [name for name, weight in weights.items() if not bool(torch.isfinite(weight).all())]:
        raise ValueError(f"the new weights hold NaN or inf in {_listed(broken)}")
    for head in (name for name in _HEADS if tied and name in weights):
        others = (weight for name, weight in weights.items() if name not in _HEADS and ("emb" in name or "wte" in name))
        if not any(torch.equal(weights[head], other) for other in others):
            raise ValueError(f"{head} differs from the embedding, but the served model ties them")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return ", ".join([first, *others[:2]]) + (f" and {len(others) - 2} more" if len(others) > 2 else "")


with suppress(ValueError):  # registered already: this file was imported under another name as well
    WeightTransferEngineFactory.register_engine("edge_grpo", Transfer)


# --- the door ---------------------------------------------------------------------------------------------------------


class Door:
    """ASGI middleware, named by ``--middleware``: all requests pass it.

    vLLM asks for its API key under ``/v1`` and ``/inference`` only; the routes that replace weights are elsewhere. Here
    every route but ``/health`` wants the key, if there is one. Web pages are turned away, so that no site that a user
    of this machine visits can talk to the server. ``GET /edge_grpo`` describes the server. When the process that
    started the server is gone, the server ends.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._key = hashlib.sha256(envs.VLLM_API_KEY.encode()).digest() if envs.VLLM_API_KEY else None
        if parent := int(os.environ.get(_PARENT, "0")):
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, reject, or pass on one request."""
        if scope["type"] == "http":
            response = self._response(scope)
            await (response or self._app)(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _response(self, scope: Message) -> JSONResponse | None:
        path, headers = scope["path"], Headers(scope=scope)
        if "origin" in headers:
            return JSONResponse({"error": "Requests from web pages are not answered"}, status_code=403)
        if path != "/health" and not self._knows_key(headers.get("authorization", "")):
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        if path.startswith(_CLOSED):
            return JSONResponse({"error": f"{path} is closed"}, status_code=403)
        if path == "/edge_grpo":
            return JSONResponse(_description(scope["app"].state.vllm_config))
        return None

    def _knows_key(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        return self._key is None or (
            scheme.lower() == "bearer" and secrets.compare_digest(hashlib.sha256(key.encode()).digest(), self._key)
        )


def _description(config: Any) -> dict[str, Any]:
    model, lora = config.model_config, config.lora_config
    return {
        "protocol": _PROTOCOL,
        "vllm": vllm.__version__,
        "model": model.model,
        "served_name": model.served_model_name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_model_len": model.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "vocabulary": model.get_vocab_size(),
        "logprobs_mode": model.logprobs_mode,
        "lora": lora is not None,
        "max_lora_rank": lora.max_lora_rank if lora else 0,
        "tensor_parallel": config.parallel_config.tensor_parallel_size,
        "device": config.device_config.device_type,
    }


def _end_with(parent: int) -> None:
    """End this process, as by SIGTERM, once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
