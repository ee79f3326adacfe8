"""The sections of a run's settings that no other package defines; importing them imports no model code."""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from edge_grpo.base.settings import settings

__all__ = [
    "BUNDLED",
    "BUNDLED_VISION",
    "BUNDLES",
    "DistributedSettings",
    "EngineSettings",
    "EvalSettings",
    "HfEngineSettings",
    "LoraSettings",
    "ModelSettings",
    "RolloutSettings",
    "RunSettings",
    "TrainSettings",
    "VllmEngineSettings",
]

BUNDLED: Final = "bundled"
"""The value of ``model.path`` for the small model in this package."""

BUNDLED_VISION: Final = "bundled-vision"
"""That of the one that reads images, too."""

BUNDLES: Final = {BUNDLED: "base_model", BUNDLED_VISION: "vision_model"}
"""The folders of these models, within the package."""


@settings
class LoraSettings:
    """Low-rank adapters through peft; ``rank`` 0 trains all weights.

    An adapter's update is multiplied by ``alpha`` / ``rank``.
    ``targets`` empty = every linear layer of the text decoder but the head, and the experts and router of a mixture.
    Otherwise each target is the end of a layer's name (``q_proj``), of an expert weight's (``experts.down_proj``), or a
    regular expression for whole names; one that matches nothing is an error. A target that is tied to another layer
    (head and embeddings) is untied, in ``final`` too. What is adapted, and what stays frozen, is printed at the start.
    No dropout, because log-probs before and after an update must come from the same network.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """

    rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=32.0, gt=0)
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject targets that would be ignored, or that name nothing."""
        if self.targets and not self.rank:
            raise ValueError("targets: with rank=0 all weights are trained; set rank (such as 16), or drop targets")
        if not all(target.strip() for target in self.targets):
            raise ValueError(f"targets: got {list(self.targets)}, wanted names of layers, none of them empty")


@settings
class ModelSettings:
    """Which model to train, and in what precision.

    ``path`` is a folder in Hugging Face format, a hub name, or ``bundled`` for the small model in this package, or
    ``bundled-vision`` for the one that reads images.
    ``dtype`` is that of the passes; trained weights are always float32, so that no update is lost in rounding. ``auto``
    is ``bfloat16`` where that is faster (GPUs; CPUs with AMX or AVX512-BF16, for Llama, Mistral, Qwen2 and Qwen3) and
    the model has at least 33 million weights, otherwise ``float32``; with LoRA the frozen base is kept in that dtype.
    ``device``: where the model runs; ``auto`` is a GPU if there is one.
    ``attention``: ``auto`` is PyTorch's fused attention (``sdpa``), or ``eager`` where a family lacks support for it.
    ``gradient_checkpointing`` trades time for memory, on a GPU only. ``trust_remote_code`` lets a model run the Python
    code it ships with, with all your permissions; only models with such code need it.

    ``path`` may also be a LoRA adapter's folder or a run's checkpoint: it is merged into its base model's weights.
    ``save_dtype`` is that of ``final``: ``auto`` is what the model's own folder has, whatever it is trained in;
    checkpoints keep the weights as trained.
    """

    path: str = BUNDLED
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    gradient_checkpointing: bool = True
    trust_remote_code: bool = False
    lora: LoraSettings = LoraSettings()


@settings
class HfEngineSettings:
    """The decode loop in this process, on the policy's own weights."""

    kind: Literal["hf"] = "hf"


@settings
class VllmEngineSettings:
    """vLLM servers started by ``edge-grpo serve``, which are given the policy's weights after every step.

    ``urls``: such as ``http://127.0.0.1:8000``; several servers share the prompts. ``folder``: where weights are handed
    over, on a disk that this process and the servers see under the same path; empty = a temporary folder. A row that is
    not answered within ``timeout_s`` seconds, or that was sampled with other weights, is asked again, at most
    ``retries`` times, after pauses that double from 1 second up to 30. ``lora``: adapters are handed over ``merged``
    into the model, or as an ``adapter``, to servers started with ``--lora RANK``. ``transport``: ``folder``, or
    ``nccl`` from GPU to GPU. An API key belongs into the environment variable ``EDGE_GRPO_API_KEY``.
    """

    kind: Literal["vllm"] = "vllm"
    urls: tuple[str, ...] = ()
    folder: str = ""
    timeout_s: float = Field(default=600.0, gt=0)
    retries: int = Field(default=6, ge=0)
    lora: Literal["merged", "adapter"] = "merged"
    transport: Literal["folder", "nccl"] = "folder"

    def __post_init__(self) -> None:
        """Reject addresses that no server can have, and settings that contradict each other."""
        if not self.urls:
            raise ValueError("urls: got none, wanted the addresses that `edge-grpo serve` prints")
        for url in self.urls:
            _check_address(url)
        plain = [url.rstrip("/") for url in self.urls]
        if repeated := [url for url in plain if plain.count(url) > 1]:
            raise ValueError(f"urls: {repeated[0]} is listed twice")
        if self.lora == "adapter" and self.transport == "nccl":
            raise ValueError("lora: adapters are files, which transport=nccl does not carry; use transport=folder")


def _check_address(url: str) -> None:
    """Reject what is no server's address, and passwords, which would be stored with the run."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        sound = False
    if not sound or parts.query or parts.fragment:
        raise ValueError(f"urls: got {url!r}, wanted an address such as http://127.0.0.1:8000")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError(f"urls: got {url!r}, wanted the server's address without /v1")
    if "@" in parts.netloc:
        raise ValueError(
            "urls: an address with a user name or password would be stored with the run; put an API key into the "
            "environment variable EDGE_GRPO_API_KEY"
        )


EngineSettings = Annotated[HfEngineSettings | VllmEngineSettings, Field(discriminator="kind")]
"""What generates tokens, chosen by ``kind``; ``rollout.engine.kind=vllm`` replaces the other kind's settings."""


@settings
class RolloutSettings:
    """How completions are sampled during training.

    ``group_size`` completions for each of ``prompts_per_step`` problems, of at most ``max_new_tokens`` tokens each.
    Tokens are drawn at ``temperature``; ``top_k`` 0 and ``top_p`` 1 disable truncation; ``stop`` adds stop tokens to
    the model's own, and strings that end a completion once its text contains one; ``max_rows`` limits how many rows are
    decoded together, or asked of a server at once (memory only: samples do not depend on it). ``engine``: what
    generates the tokens.
    """

    group_size: int = Field(default=8, ge=2)
    prompts_per_step: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=96, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    stop: tuple[str, ...] = ()
    max_rows: int = Field(default=256, ge=1)
    engine: EngineSettings = HfEngineSettings()

    def __post_init__(self) -> None:
        """Reject temperatures that vLLM would replace in silence."""
        if self.engine.kind == "vllm" and not 0.01 <= self.temperature <= 2:
            raise ValueError(f"temperature: got {self.temperature:g}, wanted 0.01 to 2, which vLLM can sample at")


@settings
class TrainSettings:
    """The optimizer, and how a step's rows become updates.

    The run ends after ``steps`` steps, or after the step in which the number of sampled tokens reaches ``max_tokens``
    (0 = no limit). A step makes ``passes`` passes over its rows, each split into ``mini_batches`` updates. The learning
    rate warms up to ``learning_rate`` over ``warmup_steps``, then follows ``schedule`` down to ``final_learning_rate``
    (a fraction of it) at the end. The optimizer is AdamW with ``beta1``, ``beta2`` and ``weight_decay``; the norm of an
    update's gradient is clipped to ``max_grad_norm``. ``seed`` decides the order of the data and every sample.
    ``micro_batch_rows`` limits memory and changes nothing else. Updates with non-finite
    gradients are skipped and counted; ``max_skipped_updates`` in a row end the run. Every ``checkpoint_every`` steps
    and at the end a checkpoint is written, and the newest ``keep_checkpoints`` are kept. ``keep_best`` also writes one
    after each evaluation whose held-out accuracy is the best so far, and keeps the best; ``final`` is always the model
    after the last step.
    """

    steps: int = Field(default=60, ge=0)
    max_tokens: int = Field(default=0, ge=0)
    seed: int = 0
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    final_learning_rate: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    passes: int = Field(default=1, ge=1)
    mini_batches: int = Field(default=1, ge=1)
    micro_batch_rows: int = Field(default=64, ge=1)
    max_skipped_updates: int = Field(default=5, ge=1)
    checkpoint_every: int = Field(default=20, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    keep_best: bool = False


@settings
class DistributedSettings:
    """How several processes share a run; a single one ignores this section.

    ``shard``: ``full`` divides weights, gradients and moments among the processes (FSDP2), ``none`` keeps a copy of the
    model in each. ``cpu_offload`` keeps a process's slices in CPU memory between passes: less GPU memory, slower.
    ``timeout_s``: how long a process waits for the others, in seconds; longer than the slowest sampling of a step.
    """

    shard: Literal["full", "none"] = "full"
    cpu_offload: bool = False
    timeout_s: float = Field(default=1800.0, gt=0)

    def __post_init__(self) -> None:
        """Reject slices in CPU memory where there are no slices."""
        if self.cpu_offload and self.shard == "none":
            raise ValueError("cpu_offload: needs shard=full, which divides the weights")


@settings
class EvalSettings:
    """When and how held-out problems are evaluated.

    Every ``every`` steps (0: only ``at_start`` and ``at_end``), on ``size`` problems with ``samples`` answers each;
    ``temperature`` 0 is greedy decoding. ``top_p`` 1 disables truncation. ``max_new_tokens`` 0 means that of
    ``rollout``. ``seed`` decides which problems are held out, and what is sampled.
    """

    every: int = Field(default=10, ge=0)
    at_start: bool = True
    at_end: bool = True
    size: int = Field(default=200, ge=1)
    samples: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=0, ge=0)
    seed: int = 0

    @property
    def num_problems(self) -> int:
        """How many problems to hold out: ``size``, or 0 if nothing is ever evaluated."""
        return self.size if self.every or self.at_start or self.at_end else 0


@settings
class RunSettings:
    """Where a run keeps its files, which it writes, and what receives its metrics.

    ``dir`` empty = a new folder under ``runs/``, named after the method, with a number. ``rollouts``: whether every
    completion is written, to ``rollouts/``. ``trackers``: what receives the metrics besides ``metrics.jsonl``;
    ``tensorboard`` is always installed, ``wandb``, ``trackio`` and ``mlflow`` are extras. ``project``: the project
    (wandb, trackio) or experiment (mlflow) that the run belongs to. Trackers are shown up to ``table_rows`` rollouts of
    every ``table_every``-th step; with 0 rows, none.
    """

    dir: str = ""
    rollouts: bool = True
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ("tensorboard",)
    project: str = Field(default="edge-grpo", pattern=r"^[\w.-]+$")
    table_rows: int = Field(default=16, ge=0)
    table_every: int = Field(default=10, ge=1)

    def __post_init__(self) -> None:
        """Reject trackers that are listed twice."""
        if twice := [name for name in self.trackers if self.trackers.count(name) > 1]:
            raise ValueError(f"trackers: {twice[0]} is listed twice")
