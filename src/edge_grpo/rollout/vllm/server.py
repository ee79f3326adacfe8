"""The command line and the environment of a vLLM server that a run can sample from: pure functions, and their checks.

What a plain ``vllm serve`` would get wrong, and what is done about it:

- Weights are replaced through routes that exist only in vLLM's development mode, and that ask for no key: the file in
  ``inside/`` guards them, and the server binds to this machine unless told otherwise.
- Log-probs must be those of the distribution that was sampled from: ``processed_logprobs``.
- On CPUs, vLLM takes nearly all memory for its cache, binds its threads to cores, compiles for a minute at the first
  request, and dies when it prefills a prompt with a seed in parts ("CPU Generator does not use offset", 0.32.0).
- It counts its users over the network, and would ask the hub about a model that is already here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from textwrap import shorten
from typing import Any, Final, Literal

from edge_grpo.base.errors import ConfigError

__all__ = ["API_KEY", "SERVED_NAME", "TESTED", "Installed", "Server", "complaint", "is_loopback", "length_limit"]

API_KEY: Final = "EDGE_GRPO_API_KEY"
"""The environment variable with the servers' API key, here and where they are started."""

SERVED_NAME: Final = "policy"
TESTED: Final = "0.32"
"""The versions of vLLM that the file inside the server was written against and tried with."""

Device = Literal["cpu", "cuda"]

_MODULE: Final = "edge_grpo_vllm"
_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for
_OURS: Final = {  # of vLLM's options, those that have a name here
    "--model": "MODEL",
    "--host": "--host",
    "--port": "--port",
    "--dtype": "--dtype",
    "--tensor-parallel-size": "--tensor-parallel",
    "-tp": "--tensor-parallel",
    "--max-model-len": "--max-model-len",
    "--max-num-seqs": "--max-num-seqs",
    "--max-lora-rank": "--lora",
    "--enable-lora": "--lora",
    "--api-key": f"the environment variable {API_KEY}",
}
_FIXED: Final = (
    "--served-model-name",
    "--logprobs-mode",
    "--max-logprobs",
    "--worker-extension-cls",
    "--weight-transfer-config",
)


@dataclass(frozen=True)
class Installed:
    """An interpreter that has vLLM: its path, vLLM's version, and the device that this build of vLLM runs on."""

    python: str
    version: str
    device: Device


@dataclass(frozen=True)
class Server:
    """A server to be started.

    Args:
        folder: the model, an ordinary Hugging Face folder.
        config: what is in its config.json.
        installed: the interpreter.
        host, port: where it listens.
        dtype: of weights and arithmetic; ``auto`` = float32 on CPUs, as the policy there, and bfloat16 on GPUs.
        tensor_parallel: how many processes, one GPU each, share the model.
        max_model_len: tokens of a prompt with its completion; 0 = the model's context, within a default limit.
        max_num_seqs: sequences that are decoded together; 0 = 64 on CPUs, 256 on GPUs.
        lora_rank: the highest rank of adapters; 0 = no adapters.
        extra: further options of vLLM, as they are.
    """

    folder: str
    config: Mapping[str, Any]
    installed: Installed
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "auto"
    tensor_parallel: int = 1
    max_model_len: int = 0
    max_num_seqs: int = 0
    lora_rank: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what vLLM would reject after half a minute, and options of it that contradict those set here.

        Raises:
            ConfigError: names the option and what to use instead.
        """
        if self.extra and not self.extra[0].startswith("-"):
            raise ConfigError(f"serve: got a second model, '{self.extra[0]}'; vLLM's own options go after `--`")
        for word in self.extra:
            option = word.partition("=")[0].replace("_", "-")
            if option in _OURS:
                raise ConfigError(f"serve: vLLM's {option} is set by {_OURS[option]}; use that")
            if option in _FIXED:
                raise ConfigError(f"serve: vLLM's {option} cannot be changed: a run relies on it")
        context = length_limit(self.config)
        if context and self.max_model_len > context:
            raise ConfigError(f"--max-model-len: got {self.max_model_len}, but the model's context is {context} tokens")
        if self.lora_rank > _LORA_RANKS[-1]:
            raise ConfigError(f"--lora: got {self.lora_rank}, vLLM serves adapters up to rank {_LORA_RANKS[-1]}")

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on CPUs."""
        return self.installed.device == "cpu"

    @property
    def precision(self) -> str:
        """The dtype, decided."""
        return self.dtype if self.dtype != "auto" else "float32" if self.on_cpu else "bfloat16"

    @property
    def sequences(self) -> int:
        """How many sequences are decoded together, decided."""
        return self.max_num_seqs or (64 if self.on_cpu else 256)

    @property
    def length(self) -> int:
        """The length limit in tokens, decided; 0 = unknown here, so vLLM finds it."""
        return self.max_model_len or min(length_limit(self.config), 4096 if self.on_cpu else 32768)

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://[{near}]:{self.port}" if ":" in near else f"http://{near}:{self.port}"

    def command(self) -> list[str]:
        """The command line."""
        options = {
            "--model": self.folder,
            "--served-model-name": SERVED_NAME,
            "--host": self.host,
            "--port": str(self.port),
            "--dtype": self.precision,
            "--tensor-parallel-size": str(self.tensor_parallel),
            "--max-num-seqs": str(self.sequences),
            "--logprobs-mode": "processed_logprobs",
            "--max-logprobs": "-1",
            "--worker-extension-cls": f"{_MODULE}.Extension",
            "--weight-transfer-config": json.dumps({"backend": "edge_grpo"}),
            "--middleware": f"{_MODULE}.Door",
        }
        if self.length:
            options["--max-model-len"] = str(self.length)
        if self.lora_rank:
            options["--max-lora-rank"] = str(next(rank for rank in _LORA_RANKS if rank >= self.lora_rank))
        flags = ["--enable-scale-out", "--disable-uvicorn-access-log"]
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"] if self.on_cpu else []
        flags += ["--enable-lora"] if self.lora_rank else []
        words = [word for pair in options.items() for word in pair]
        return [self.installed.python, "-m", "vllm.entrypoints.openai.api_server", *words, *flags, *self.extra]

    def environment(self, user: Mapping[str, str], *, parent: int, memory_gib: float, cores: int) -> dict[str, str]:
        """The environment: the user's own, whose vLLM settings win, and what the server cannot do without.

        Args:
            user: this process's environment.
            parent: the process with which the server ends.
            memory_gib: of the machine.
            cores: of the machine, for this process.
        """
        defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
        if self.on_cpu:
            defaults |= {
                "VLLM_CPU_KVCACHE_SPACE": str(self.cache_gib(memory_gib)),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": str(max(1, cores // self.tensor_parallel)),
                "TORCHDYNAMO_DISABLE": "1",
            }
        needed = {
            "PYTHONPATH": str(files("edge_grpo") / "rollout" / "vllm" / "inside"),
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if self.lora_rank else "0",
            "PYTHONSAFEPATH": "1",  # no module of the current folder takes the place of another
            "HF_HUB_OFFLINE": "1",
            "EDGE_GRPO_SERVE_PID": str(parent),
        }
        unwanted = {"PYTHONHOME", "PYTHONPATH", "VLLM_API_KEY", API_KEY}
        own = {name: value for name, value in user.items() if name not in unwanted}
        key = {"VLLM_API_KEY": user[API_KEY]} if user.get(API_KEY) else {}
        return {**defaults, **own, **needed, **key}

    def cache_gib(self, memory_gib: float) -> int:
        """GiB for keys and values on a CPU: what all sequences need at full length, at most a quarter of the memory."""
        text = _text(self.config)
        heads = text.get("num_key_value_heads") or text.get("num_attention_heads") or 0
        width = text.get("head_dim") or text.get("hidden_size", 0) // (text.get("num_attention_heads") or 1)
        per_token = 2 * text.get("num_hidden_layers", 0) * heads * width * (4 if self.precision == "float32" else 2)
        wanted = per_token * self.length * self.sequences / 2**30 / self.tensor_parallel
        return max(1, math.ceil(min(wanted or 4.0, memory_gib / 4 / self.tensor_parallel)))


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def length_limit(config: Mapping[str, Any]) -> int:
    """The model's context in tokens; 0 if its configuration does not tell."""
    names = ("max_position_embeddings", "n_positions")
    return next((int(_text(config)[name]) for name in names if _text(config).get(name)), 0)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    return host in ("localhost", "::1") or host.startswith("127.")


_FOLLOW_UP: Final = ("initialization failed", "See root cause", "See stack trace", "stack trace above")


def complaint(log: Sequence[str]) -> str:
    """The last error in a server's log that is no consequence of another one, without prefixes; empty if there is none.

    Example:
        >>> complaint(["(Worker pid=7) ERROR 01-02 03:04:05 [a.py:6] ValueError: no room", "bye"])
        'ValueError: no room'
    """
    lines = [line.rpartition("] ")[2].strip() if line.startswith("(") else line.strip() for line in log]
    for place, line in reversed(list(enumerate(lines))):
        if _names_error(line) and not any(words in line for words in _FOLLOW_UP):
            told = lines[place : place + 2][-1] if "validation error" in line else line
            return shorten(told.removeprefix("Value error, ").partition(" [type=")[0], 400, placeholder=" ...")
    return ""


def _names_error(line: str) -> bool:
    name, colon, _ = line.partition(": ")
    return bool(colon) and (name.rpartition(".")[2].endswith(("Error", "Exception")) or ": error: " in line)
