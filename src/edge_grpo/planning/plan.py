"""A run before it starts: what a step is made of, what memory it takes, how long it may last, and what looks wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import Config
from edge_grpo.models.compute import has_layouts
from edge_grpo.models.loading import load_tokenizer
from edge_grpo.models.precision import half_is_fast
from edge_grpo.models.skeleton import on_disk
from edge_grpo.planning.counts import Counts, counts_of, load_of
from edge_grpo.planning.lengths import Lengths, lengths_of
from edge_grpo.planning.memory import Load, Memory, Place, memory
from edge_grpo.planning.shape import Precision, Shape, shape_of

__all__ = ["Plan", "plan_of"]


@dataclass(frozen=True)
class Plan:
    """What is known of a run from its settings, the model's configuration, its tokenizer and the data.

    ``device``: ``cpu`` or ``cuda``. ``ranks``: processes that share the run. ``divided``: whether they share the
    weights, too. ``assumptions``: what the figures rest on, a line each.
    """

    config: Config
    device: str
    ranks: int
    place: Place
    shape: Shape
    precision: Precision
    lengths: Lengths
    counts: Counts
    load: Load
    memory: Memory
    assumptions: tuple[str, ...]


def plan_of(config: Config, *, processes: int = 0, device: str = "auto", completion: int = 0) -> Plan:
    """Plan a run; reads the model's configuration and tokenizer and the data, and no weight.

    Args:
        config: its settings.
        processes: as in ``edge-grpo train --processes``; 0 = a single process, which divides nothing.
        device: ``cpu`` or ``cuda``, which need not exist here; ``auto`` = what ``model.device`` means on this machine.
        completion: tokens of the longest completion; 0 = as many as the settings allow.
    Raises:
        EngineError: the model is not on this machine, or cannot be trained.
        ConfigError: a setting contradicts the model or the number of processes.
        DataError: the data cannot be read.
    """
    ranks, model = max(1, processes), on_disk(config.model)
    on = _device(config, device)
    if config.distributed.cpu_offload and (on.type == "cpu" or not processes):
        raise ConfigError(
            "distributed.cpu_offload: has no effect on a CPU or in a single process; drop it, or plan for GPUs with "
            "--device cuda --processes N (1 is enough)"
        )
    shape, precision = shape_of(model, on, fast=_fast(on))
    lengths = lengths_of(config, load_tokenizer(model.path, trust_remote_code=model.trust_remote_code))
    if lengths.held_out:  # data too small for eval.size gives fewer
        config = replace(config, eval=replace(config.eval, size=min(config.eval.size, lengths.held_out)))
    counts = counts_of(config, ranks=ranks, prompt=round(lengths.mean), packed=shape.packed)
    load = load_of(config, counts, ranks=ranks, prompt=lengths.longest)
    if completion:
        load = replace(load, completion=min(load.completion, completion), sampled=min(load.sampled, completion))
    place = _place(config, on, ranks=ranks, processes=processes)
    return Plan(
        config=config,
        device=on.type,
        ranks=ranks,
        place=place,
        shape=shape,
        precision=precision,
        lengths=lengths,
        counts=counts,
        load=load,
        memory=memory(shape, precision, load, place),
        assumptions=(_longest(counts, load), *_assumptions(config, shape, lengths, counts, place)),
    )


def _device(config: Config, device: str) -> torch.device:
    """The kind of device that is planned for."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: got {device!r}, wanted auto, cpu or cuda")
    asked = config.model.device if device == "auto" else device
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


def _fast(device: torch.device) -> Callable[[str], bool]:
    """Whether a kind of device is fast at bf16; of a GPU that is not here, it is assumed."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return lambda _: True
    return half_is_fast


def _place(config: Config, device: torch.device, *, ranks: int, processes: int) -> Place:
    needs, on_gpu = config.method.needs, device.type == "cuda"
    return Place(
        on_gpu=on_gpu,
        ranks=ranks,
        divided=processes > 0 and config.distributed.shard == "full",
        recomputes=on_gpu and config.model.gradient_checkpointing,
        lays_out=not on_gpu and has_layouts(),
        reference=needs.reference,
        in_process=config.rollout.engine.kind == "hf",
        entropy_gradient=needs.entropy_gradient,
    )


def _longest(counts: Counts, load: Load) -> str:
    """How long completions are taken to be."""
    meet = "and the longest prompts meet in one micro-batch"
    if load.completion < counts.longest:
        return (
            f"counts: every completion reaches its cap; memory: none has more than {load.completion:,} tokens, {meet}"
        )
    corrected = f" ({counts.longest:,} tokens with corrections)" if counts.corrected.high else ""
    return f"counts and memory: every completion reaches its cap{corrected}, {meet}"


def _assumptions(config: Config, shape: Shape, lengths: Lengths, counts: Counts, place: Place) -> list[str]:
    """What the figures rest on."""
    found = [
        "memory: of tensors, from the second step on; Python and its libraries, and losses of the allocator come on top"
        + (", and so does the CUDA context (1 to 2 GB)" if place.on_gpu else ""),
    ]
    if lengths.counted and lengths.counted < lengths.items:
        found.append(f"prompts and references: {lengths.counted:,} of {lengths.items:,} problems, drawn at random")
    if not lengths.counted:
        found.append("prompts: as long as data.max_prompt_tokens allows (images and pairs are not measured)")
    if not shape.packed:
        found.append(f"activations: {shape.family} runs its own code, taken to keep what Llama's layers keep; rough")
    if place.on_gpu and not torch.cuda.is_available():
        found.append("no GPU here: one that is fast at bfloat16 is assumed")
    if counts.prompts.low != counts.prompts.high:
        found.append("dynamic sampling: how many further prompts are drawn depends on the rewards")
    if place.divided and config.distributed.cpu_offload:
        found.append("distributed.cpu_offload: weights, moments and gradients are in CPU memory between passes")
    if not place.in_process:
        found.append("the rollout server samples: its weights and KV cache are not in this plan")
    if place.divided and not place.in_process:
        found.append("rank 0 keeps a whole copy of the weights in CPU memory, for the server")
    if place.ranks > 1 or place.divided:
        found.append("loading: the ranks of a machine take turns, each with the whole model in CPU memory meanwhile")
    if config.method.needs.token_scores:
        found.append("memory: the hidden states of a group while it is scored are not counted (nthr)")
    return found
