"""Models from disk or the hub: loading, adapters, and limits on context length and vocabulary."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from edge_grpo.base.digests import digest_files
from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.base.rng import derive_seed
from edge_grpo.config.sections import BUNDLED, LoraSettings, ModelSettings
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal

__all__ = [
    "context_length",
    "fingerprint",
    "load_policy",
    "load_tokenizer",
    "pick_device",
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
    folder = resolve(path)
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


def load_policy(model: ModelSettings, *, reference: bool = False, seed: int = 0) -> Policy:
    """Load the model and tokenizer, add adapters, and disable all dropout.

    Args:
        model: the settings.
        reference: whether to keep a frozen copy of the initial weights (LoRA needs none).
        seed: seed of the adapters' initial weights.
    Raises:
        EngineError: the model does not exist, is not in safetensors, has missing, misshapen or non-finite weights,
            needs untrusted code, or is of an unsupported kind.
        ConfigError: CUDA was requested but is not available, or no layer matches ``lora.targets``.
    """
    device = pick_device(model)
    on_gpu = device.type == "cuda"
    autocast = on_gpu and model.dtype == "auto" and torch.cuda.is_bf16_supported()
    frozen_base = autocast and model.lora.rank > 0  # float32 adapters on a base that is never updated
    dtype = torch.bfloat16 if model.dtype == "bfloat16" or frozen_base else torch.float32
    network = _load_network(model, dtype).to(device)
    tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    frozen = None
    if reference and not model.lora.rank:
        frozen = _load_network(model, dtype).to(device).eval().requires_grad_(False)
    if model.gradient_checkpointing and on_gpu and network.supports_gradient_checkpointing:
        newer = getattr(network, "activation_checkpointing_enable", None)  # the other name is deprecated
        (newer or network.gradient_checkpointing_enable)({"use_reentrant": False})
    if model.lora.rank:
        network = _with_adapters(network, model.lora, seed)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Policy(network.eval(), tokenizer, reference=frozen, autocast=autocast)


def pick_device(model: ModelSettings) -> torch.device:
    """The device that ``model.device`` means on this machine.

    Raises:
        ConfigError: CUDA was requested but is not available.
    """
    if model.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: got 'cuda', but PyTorch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def _load_network(model: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    folder, trusted = resolve(model.path), model.trust_remote_code
    try:
        with quiet_failures():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
            _silence(config)
            network: PreTrainedModel
            network, found = _family(config).from_pretrained(
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


def _family(config: PreTrainedConfig) -> Any:
    """The class that loads a model for text: the causal one, or the multimodal one where a family has no other."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):  # the latter: code of its own
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise EngineError(f"'{config.model_type}' is not a causal language model")


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
    pickles = sorted(file.name for file in folder.glob("*.bin")) if folder.is_dir() else []
    hint = f"; {pickles[0]} is a pickle, which is never loaded: save the model as safetensors" if pickles else ""
    return EngineError(
        f"model.path: cannot load a model from '{path}' ({_one_line(error).rstrip('.')}{hint}); give "
        f"a Hugging Face folder, the name of a reachable hub model, or '{BUNDLED}'"
    )


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


def _with_adapters(network: PreTrainedModel, lora: LoraSettings, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - slow to import, only needed with LoRA

    targets = list(lora.targets) or "all-linear"
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng():  # peft draws from the global generator
            torch.manual_seed(derive_seed(seed, "lora"))
            return get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets: {_one_line(error)}") from error


def resolve(path: str) -> str:
    """The folder that ``model.path`` refers to, or the hub name unchanged.

    Raises:
        EngineError: it is a path, but not of a folder.
    """
    if path == BUNDLED:
        return str(files("edge_grpo") / "bundled" / "base_model")
    if path.startswith((".", "/", "~")) or Path(path).exists():
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise EngineError(
                f"model.path: no such folder: '{path}'; give a Hugging Face folder, a hub name, or '{BUNDLED}'"
            )
        return str(folder)
    return path


def fingerprint(model: ModelSettings) -> str:
    """Twelve hex digits that change with the files in a model folder; for a hub model, its commit.

    Reads all bytes: some seconds for a model of several gigabytes.

    Raises:
        EngineError: the model does not exist.
    """
    folder = Path(resolve(model.path))
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
