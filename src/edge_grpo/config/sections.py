"""The sections of a run's settings that belong to no lighter package; importing them imports no model code."""

from typing import Final, Literal

from pydantic import Field

from edge_grpo.base.settings import settings

__all__ = [
    "BUNDLED",
    "EngineSettings",
    "EvalSettings",
    "LoraSettings",
    "ModelSettings",
    "RolloutSettings",
    "RunSettings",
    "TrainSettings",
]

BUNDLED: Final = "bundled"
"""The name of the small model inside this package, where ``model.path`` wants a folder."""


@settings
class LoraSettings:
    """Low-rank adapters through peft; ``rank`` 0 trains all weights.

    Source: Hu et al. 2021, arXiv:2106.09685. ``targets`` empty = every linear layer but the head. No dropout, because
    the log-probs before and after an update must come from the same network.
    """

    rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=32.0, gt=0)
    targets: tuple[str, ...] = ()


@settings
class ModelSettings:
    """Which model is trained and in what precision.

    ``path`` is a folder in Hugging Face format, a hub name, or ``bundled`` for the small model in this package.
    ``dtype``: ``auto`` is float32 on a CPU, and on a GPU float32 weights under bf16 autocast (with LoRA the frozen base
    is in bf16). ``bfloat16`` holds all weights in bf16, where small updates are rounded away: for LoRA or high rates.
    ``gradient_checkpointing`` trades time for memory, on a GPU only. ``trust_remote_code`` lets a model that brings
    Python code of its own run it, with all the rights of whoever starts the run; no other model needs it.
    """

    path: str = BUNDLED
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = True
    trust_remote_code: bool = False
    lora: LoraSettings = LoraSettings()


@settings
class EngineSettings:
    """What generates tokens. ``hf``: the decode loop in this process, on the policy's own weights."""

    kind: Literal["hf"] = "hf"


@settings
class RolloutSettings:
    """How completions are sampled in training.

    ``group_size`` completions of each of ``prompts_per_step`` problems, of at most ``max_new_tokens`` tokens;
    ``top_k`` 0 and ``top_p`` 1 switch truncation off; ``stop`` names further stop tokens besides the model's own;
    ``max_rows`` bounds how many rows are decoded side by side (memory only: draws do not depend on it).
    """

    group_size: int = Field(default=8, ge=2)
    prompts_per_step: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=96, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    stop: tuple[str, ...] = ()
    max_rows: int = Field(default=256, ge=1)
    engine: EngineSettings = EngineSettings()


@settings
class TrainSettings:
    """The optimizer and how a step's rows become updates.

    The run ends after ``steps`` steps, or after the step with which ``max_tokens`` tokens have been sampled (0 = no
    bound). A step makes ``passes`` passes over its rows, each in ``mini_batches`` updates. ``learning_rate`` rises over
    ``warmup_steps`` and then follows ``schedule`` down to ``final_learning_rate`` (a share of it) at that end.
    ``micro_batch_rows`` bounds memory and changes nothing else. Updates with non-finite gradients are skipped and
    counted; ``max_skipped_updates`` in a row end the run.
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


@settings
class EvalSettings:
    """When and how held-out problems are answered.

    ``every`` steps (0: only ``at_start`` and ``at_end``); ``size`` problems, ``samples`` answers each;
    ``temperature`` 0 is greedy decoding. ``max_new_tokens`` 0 stands for the rollout's budget.
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


@settings
class RunSettings:
    """Where a run keeps its files. ``dir`` empty: a new folder under ``runs/``, named after method and number."""

    dir: str = ""
    rollouts: bool = True
    tensorboard: bool = True
