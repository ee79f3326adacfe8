"""Models from disk or the hub: loading, adapters, and limits on context length and vocabulary."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from edge_grpo.base.digests import digest_files
from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.base.world import World
from edge_grpo.config.sections import BUNDLED, DistributedSettings, ModelSettings
from edge_grpo.models.adapters import add_adapters, check_reached
from edge_grpo.models.families import family_class, reads_images
from edge_grpo.models.policy import Policy
from edge_grpo.models.precision import base_in_half, computes_in_half, fast_for_all, half_is_fast
from edge_grpo.models.probe import on_cpu
from edge_grpo.models.replica import Replica
from edge_grpo.models.saving import round_weights
from edge_grpo.models.scoring import Scorer, causal
from edge_grpo.models.sources import Source, declared_dtype, resolve, source_of
from edge_grpo.models.vision import ModelVision, older_template

__all__ = [
    "check_base",
    "context_length",
    "fingerprint",
    "load_policy",
    "load_shared_policy",
    "load_tokenizer",
    "pick_device",
    "recompute_activations",
    "replica_of",
    "resolve",
    "vocabulary_size",
]

_UNWANTED = ("drop", "jitter", "rescale_every")  # in names of config fields that set training apart from evaluation
_ATTENTION = ("attn_implementation", "attention implementation", "flash_attn", "FlashAttention")  # in messages about it
_REMEDY = re.compile(r"\b(please|use|set|install|try|upgrade|load your|instead)\b", re.IGNORECASE)
transformers_logging.disable_progress_bar()  # the console display shows progress


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub model.

    Args:
        path: as in ``model.path``.
        trust_remote_code: whether Python code shipped with it may run.
    Raises:
        EngineError: there is no tokenizer, it cannot be read, or it needs untrusted code.
    """
    folder = _tokenizer_place(ModelSettings(path=path))
    try:
        with quiet_failures():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        _reject_untrusted_code(path, error)
        raise EngineError(f"model.path: cannot load a tokenizer from '{path}' ({_one_line(error)})") from error
    if len(tokenizer.get_vocab()) < 2:
        raise EngineError(f"model.path: '{path}' has no tokenizer files; save the tokenizer with the model")
    return tokenizer


def _tokenizer_place(model: ModelSettings) -> str:
    """Where the tokenizer is: an adapter may bring its own, otherwise it is the base model's."""
    source = source_of(model)
    if source.over is None or (source.config and (source.config.parent / "tokenizer_config.json").is_file()):
        return source.place
    return _tokenizer_place(source.over)


def load_policy(
    model: ModelSettings,
    *,
    reference: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    fast: Callable[[str], bool] = half_is_fast,
) -> Policy:
    """Load the model and tokenizer, add adapters, and disable all dropout.

    Args:
        model: the settings.
        reference: whether to keep a frozen copy of the initial weights (LoRA needs none).
        seed: seed of the adapters' initial weights.
        device: where the weights go; None = as ``model.device`` says.
        fast: whether a kind of device is fast at bf16.
    Raises:
        EngineError: the model does not exist, is not in safetensors, has missing, misshapen or non-finite weights,
            needs untrusted code, or is of an unsupported kind.
        ConfigError: CUDA was requested but is not available, or no layer matches ``lora.targets``.
    """
    home, passes = device or pick_device(model), pick_device(model)
    on_gpu, adapts = passes.type == "cuda", model.lora.rank > 0
    known = base_in_half(model, passes, fast=fast)
    network = _network(model, torch.bfloat16 if known else torch.float32)
    half = known or computes_in_half(network, model, passes, fast=fast)
    if half and adapts:
        round_weights(network, torch.bfloat16)
    network = network.to(home)
    tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    frozen = None
    if reference and not adapts:
        # a model's own code rounds to bf16 in other places if its weights are bf16 themselves
        dtype = torch.bfloat16 if half and Scorer(network).is_packed else torch.float32
        frozen = _network(model, dtype).to(home).eval().requires_grad_(False)
    if model.gradient_checkpointing and on_gpu and network.supports_gradient_checkpointing:
        recompute_activations(network)
    if model.lora.rank:
        place = resolve(model.path)
        network = add_adapters(
            network, model.lora, seed, base=str(Path(place).resolve()) if Path(place).is_dir() else place
        )
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    save_dtype = declared_dtype(model) if model.save_dtype == "auto" else getattr(torch, model.save_dtype)
    with on_cpu(causal(network)) if home.type == "cpu" else nullcontext():
        policy = Policy(
            network.eval(),
            tokenizer,
            reference=frozen,
            autocast=half,
            save_dtype=save_dtype,
            vision=_vision(causal(network), model, tokenizer),
        )
        if policy.has_adapters:
            with policy.precision():
                check_reached(policy.model)
    return policy


def _vision(network: PreTrainedModel, model: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> ModelVision | None:
    """What reads images for a model; None for one of text."""
    if not reads_images(network.config):
        return None
    place = source_of(model).base.place
    if not tokenizer.chat_template and (file := older_template(place)):
        tokenizer.chat_template = file
    return ModelVision(place, tokenizer, network.config, trust_remote_code=model.trust_remote_code)


def recompute_activations(network: PreTrainedModel) -> None:
    """Let a model compute the activations of its layers again in the backward pass, rather than keep them."""
    newer = getattr(network, "activation_checkpointing_enable", None)  # the other name is deprecated
    (newer or network.gradient_checkpointing_enable)({"use_reentrant": False})


def load_shared_policy(
    model: ModelSettings, distributed: DistributedSettings, world: World, *, reference: bool = False, seed: int = 0
) -> Policy:
    """Load a policy that several ranks train together, with its weights divided among them unless they say otherwise.

    The ranks of a machine load in turn, so that its memory holds one undivided model at a time (two with a reference):
    4 bytes per weight in float32, 2 in bf16.

    Args:
        model: the settings.
        distributed: whether the weights are divided.
        world: the ranks; a world of one loads an ordinary policy.
        reference: as in :func:`load_policy`.
        seed: likewise.
    Raises:
        ConfigError: weights are to stay in CPU memory, where there is no other, or where they are not divided.
    """
    device = pick_device(model)
    if distributed.cpu_offload and (device.type == "cpu" or world.group is None):
        where = "on a CPU, where all memory is CPU memory" if device.type == "cpu" else "in a single process"
        raise ConfigError(
            f"distributed.cpu_offload: has no effect {where}; drop it, or start the run on GPUs with torchrun or "
            "--processes (1 is enough)"
        )
    divided = world.group is not None and distributed.shard == "full"
    home = torch.device("cpu") if divided else device  # a GPU may have no room for the undivided model
    fast = fast_for_all(world, device.type)

    def load() -> Policy:
        policy = load_policy(model, reference=reference, seed=seed, device=home, fast=fast)
        if divided:
            policy.shard(world, device=device, offload=distributed.cpu_offload)
        return policy

    policy = world.in_turn(load)
    if divided:
        policy.begin()
    return policy


def replica_of(policy: Policy, world: World, model: ModelSettings, *, seed: int = 0) -> Replica:
    """What gives rank 0 all weights of a policy that was loaded with these settings; it rounds as the policy does."""
    attention = "sdpa" if model.attention == "flash_attention_2" else model.attention  # which needs a GPU

    def load() -> Policy:
        copied = load_policy(replace(model, device="cpu", attention=attention), seed=seed)
        copied.scorer = Scorer(copied.model, autocast=policy.autocast)
        if policy.scorer.dense is None:
            copied.scorer.dense = None
        return copied

    return Replica(policy, world, load)


def pick_device(model: ModelSettings) -> torch.device:
    """The device that ``model.device`` means on this machine.

    Raises:
        ConfigError: CUDA was requested but is not available.
    """
    if model.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: got 'cuda', but PyTorch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def _network(model: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    """The network that ``model.path`` names; an adapter or a checkpoint is merged into its base."""
    source = source_of(model)
    if source.over is None:
        return _load_network(model, dtype)
    check_base(source)
    return source.into(_network(source.over, dtype))


def check_base(source: Source) -> None:
    """Make sure that a checkpoint of adapters meets the base model that it was trained on.

    Raises:
        EngineError: the base model's files changed.
    """
    if source.over is not None and source.fits and source.fits != fingerprint(source.over):
        raise EngineError(
            f"model.path: '{source.place}' holds adapters, and their base model '{source.over.path}' changed since the "
            "run was last started; put the old files back"
        )


def _load_network(model: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    folder, trusted = resolve(model.path), model.trust_remote_code
    try:
        with quiet_failures():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
            _check_unquantised(config)
            _silence(config)
            network: PreTrainedModel
            network, found = family_class(config).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=None if model.attention == "auto" else model.attention,
                use_safetensors=True,
                trust_remote_code=trusted,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # rejected below, by name
            )
            _check_weights(network, found)
            _check_generation_config(Path(folder))
    except Exception as error:
        raise _not_loaded(model, error) from error
    return network


def _silence(config: PreTrainedConfig) -> None:
    """Switch off all that makes training passes differ: dropout that is called as a function, noise, rescaling."""
    for each in (config, *(getattr(config, name) for name in config.sub_configs)):
        for name, value in (each.to_dict() if isinstance(each, PreTrainedConfig) else {}).items():
            if any(word in name for word in _UNWANTED) and isinstance(value, (int, float)) and value is not True:
                setattr(each, name, type(value)(0))


def _not_loaded(model: ModelSettings, error: Exception) -> EngineError:
    """The error for a model that cannot be loaded."""
    path = model.path
    _reject_untrusted_code(path, error)
    if model.attention != "auto" and any(word in str(error) for word in _ATTENTION):
        return EngineError(
            f"model.attention: '{model.attention}' cannot be used for '{path}' ({_one_line(error).rstrip('.')}); leave "
            "it at 'auto', or set model.attention=eager"
        )
    folder = Path(resolve(path))
    if not folder.is_dir() and "/" not in path:
        return EngineError(
            f"model.path: no such folder: '{path}', and no hub model of that name can be loaded "
            f"({_one_line(error, 200)}); give a Hugging Face folder, the name of a reachable hub model, or '{BUNDLED}'"
        )
    pickles = sorted(file.name for file in folder.glob("*.bin")) if folder.is_dir() else []
    hint = f"; {pickles[0]} is a pickle, which is never loaded: save the model as safetensors" if pickles else ""
    return EngineError(
        f"model.path: cannot load a model from '{path}' ({_one_line(error).rstrip('.')}{hint}); give "
        f"a Hugging Face folder, the name of a reachable hub model, or '{BUNDLED}'"
    )


def _check_unquantised(config: PreTrainedConfig) -> None:
    """Reject quantised weights, which can be neither trained nor merged nor saved as they are."""
    if found := getattr(config, "quantization_config", None):
        kind = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        raise EngineError(f"its weights are quantised ({kind or 'method unknown'}); use a copy in bf16 or float32")


def _check_weights(network: PreTrainedModel, found: Mapping[str, Iterable[Any]]) -> None:
    """Reject weights that the library would initialise at random (tied weights are not missing), and non-finite ones.

    Unexpected weights are left to the library, which warns about them and loads the rest.
    """
    if missing := sorted(found["missing_keys"]):
        raise EngineError(f"its files lack the weights {_listed(missing)}")
    if others := sorted(found["mismatched_keys"]):
        shapes = [f"{name} {list(held)} instead of {list(wanted)}" for name, held, wanted in others]
        raise EngineError(f"its weights do not have the shapes in config.json: {_listed(shapes)}")
    if broken := [name for name, weight in network.named_parameters() if not bool(weight.isfinite().all())]:
        raise EngineError(f"its files hold NaN or inf in the weights {_listed(broken)}")


def _check_generation_config(folder: Path) -> None:
    """Reject a damaged file, which the library would silently ignore, and its stop tokens with it."""
    file = folder / "generation_config.json"
    try:
        if file.is_file():
            json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{file.name} is not JSON: {error}") from error


def _listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reject_untrusted_code(path: str, error: Exception) -> None:
    """Raise EngineError if loading failed because the model's code is not trusted."""
    if "trust_remote_code" in str(error):
        raise EngineError(
            f"model.path: '{path}' ships its own Python code, which is not run by default. If you have read that code "
            "or trust its author, set model.trust_remote_code=true: it then runs with all your permissions"
        ) from error


def fingerprint(model: ModelSettings) -> str:
    """Twelve hex digits that change with the files in a model folder; for a hub model, its commit.

    For an adapter or a checkpoint they cover its base model too.

    Reads all bytes: some seconds for a model of several gigabytes.

    Raises:
        EngineError: the model does not exist.
    """
    source = source_of(model)
    if source.over is not None:
        return source.identity(fingerprint(source.over))
    folder = Path(source.place)
    if not folder.is_dir():
        try:
            with quiet_failures():
                config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
        except Exception as error:
            raise _not_loaded(model, error) from error
        return str(getattr(config, "_commit_hash", None) or model.path)
    return digest_files(each for each in folder.iterdir() if each.suffix in (".safetensors", ".json", ".jinja"))


def _one_line(error: BaseException, most: int = 600) -> str:
    """A library's message on one line; of a long one, its beginning and the sentences that say what to do."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= most:
        return text
    first, *others = re.split(r"(?<=[.!?:;]) ", text)
    remedies = [sentence for sentence in others if _REMEDY.search(sentence)]
    return " ".join(shorten(each, most // 2, placeholder=" ...") for each in (first, *remedies[:3]))


def context_length(policy: Policy) -> int | None:
    """The model's context length in tokens; None if its configuration does not state it."""
    length: int | None = getattr(causal(policy.model).config.get_text_config(), "max_position_embeddings", None)
    return length


def vocabulary_size(policy: Policy) -> int:
    """Number of tokens that the model has an embedding for."""
    size: int = causal(policy.model).get_input_embeddings().weight.shape[0]
    return size
