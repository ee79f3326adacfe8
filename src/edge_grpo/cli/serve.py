"""``edge-grpo serve``."""

import json
import os
import tempfile
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_grpo.base.cores import num_cores
from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.cli.progress import waiting

if TYPE_CHECKING:
    from edge_grpo.rollout.vllm.server import Server

__all__ = ["serve"]


class Device(StrEnum):
    """What a server runs on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """The precision of a server."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, hub name, run, checkpoint or adapter, or `bundled`.")
    ],
    vllm: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTION ...]", help="More options for vLLM, as they are.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; other machines need EDGE_GRPO_API_KEY.")] = (
        "127.0.0.1"
    ),
    device: Annotated[Device, typer.Option(help="auto: what this build of vLLM runs on.")] = Device.auto,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share the model.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="auto: float32 on CPUs, bfloat16 on GPUs.")] = Dtype.auto,
    max_model_len: Annotated[
        int, typer.Option(min=0, help="Tokens of a prompt and its completion; 0: the model's context, within limits.")
    ] = 0,
    max_num_seqs: Annotated[int, typer.Option(min=0, help="Rows decoded together; 0: 64 on CPUs, 256 on GPUs.")] = 0,
    lora: Annotated[int, typer.Option(min=0, metavar="RANK", help="Serve adapters up to this rank; 0: none.")] = 0,
    python: Annotated[
        str, typer.Option(metavar="PATH", help="Where vLLM is; default: .venv-vllm, else this environment.")
    ] = "",
    log: Annotated[str, typer.Option(metavar="FILE", help="vLLM's messages; default: runs/serve/PORT.log.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="Show vLLM's messages here instead.")] = False,
) -> None:
    """Start a vLLM server that training can sample from, and print the settings that make a run use it.

    Ends with Ctrl-C. The server needs vLLM alone, in an environment of its own (`make setup-vllm`, or --python). It
    listens to this machine only: its weights can be replaced by whoever reaches its port, so another --host needs an
    API key in the environment variable EDGE_GRPO_API_KEY, here and where training runs.
    """
    from edge_grpo.rollout.vllm.launch import free_port, installed_vllm, running  # noqa: PLC0415
    from edge_grpo.rollout.vllm.server import API_KEY, Server, is_loopback  # noqa: PLC0415

    key = os.environ.get(API_KEY, "")
    if not is_loopback(host) and not key:
        raise ConfigError(
            f"--host: got {host}, and whoever reaches port {port} there can replace the model's weights; set an API "
            f"key in the environment variable {API_KEY}, here and where training runs, or stay on 127.0.0.1"
        )
    installed = installed_vllm(python, device)
    port = free_port(host, port)
    with ExitStack() as stack:
        folder = _ordinary(model, stack)
        server = Server(
            folder=str(folder.absolute()),
            config=_config_of(folder),
            installed=installed,
            host=host,
            port=port,
            dtype=dtype,
            tensor_parallel=tensor_parallel,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            lora_rank=lora,
            extra=tuple(vllm or ()),
        )
        file = None if verbose else Path(log or f"runs/serve/{port}.log")
        _say(f"starting vLLM {installed.version} on {'CPUs' if server.on_cpu else 'GPUs'}" + _log_line(file))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        environment = server.environment(os.environ, parent=os.getpid(), memory_gib=memory, cores=num_cores())
        one = stack.enter_context(running(server.command(), environment, url=server.url, key=key, log=file))
        _introduce(model, one.wait_until_ready(), server)
        one.wait()


def _introduce(model: str, found: dict[str, Any], server: "Server") -> None:
    """Say what is served, and how a run uses it."""
    from edge_grpo.rollout.vllm.server import API_KEY, TESTED, is_loopback  # noqa: PLC0415

    shared = f", {found['tensor_parallel']} GPUs" if found["tensor_parallel"] > 1 and not server.on_cpu else ""
    adapters = f", adapters up to rank {found['max_lora_rank']}" if found["lora"] else ""
    _say(
        f"serving '{model}' in {found['dtype']}{shared}: {found['max_model_len']} tokens per prompt and completion, "
        f"{found['max_num_seqs']} rows at once{adapters}"
    )
    if not server.installed.version.startswith(f"{TESTED}."):
        _say(f"vLLM {server.installed.version} is untested; tested: {TESTED}")
    if not is_loopback(server.host):
        _say(f"other machines reach it with the key in {API_KEY}; the connection is not encrypted")
    _say(f"to sample from it: rollout.engine.kind=vllm 'rollout.engine.urls=[{server.url}]'")


def _log_line(file: Path | None) -> str:
    return f"; its log: {file}" if file else ""


def _say(line: str) -> None:
    print(line, flush=True)


def _ordinary(model: str, stack: ExitStack) -> Path:
    """The model as an ordinary folder; an adapter or a checkpoint is merged into a temporary one.

    Raises:
        ConfigError, EngineError: there is no such model, or it cannot be served.
    """
    from edge_grpo.cli.settings import config_for  # noqa: PLC0415
    from edge_grpo.config.sections import ModelSettings  # noqa: PLC0415
    from edge_grpo.models.loading import load_policy  # noqa: PLC0415 - model code
    from edge_grpo.models.sources import source_of  # noqa: PLC0415

    settings = ModelSettings(path=config_for(None, model).model.path, device="cpu")
    source = source_of(settings)
    if source.over is None:
        return Path(source.place) if Path(source.place).is_dir() else _from_hub(source.place)
    merged = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-grpo-serve-")))
    _say(f"merging '{model}' into a model of its own")
    load_policy(settings).save(merged)
    return merged


def _from_hub(name: str) -> Path:
    """The folder of a hub model on this machine, downloaded if need be."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import

    try:
        with waiting(f"downloading {name}"):
            patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
            return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise EngineError(
            f"serve: no such folder: '{name}', and no hub model of that name can be had "
            f"({' '.join(str(error).split())})"
        ) from error


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"serve: {folder / 'config.json'} cannot be read ({error})") from None
    return found
