"""The policy: load a model, and get log-probs and entropy of given tokens without ever holding all logits."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from edge_grpo.errors import ConfigError, EngineError
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.rng import derive_seed
from edge_grpo.settings import settings

__all__ = ["BUNDLED", "LoraSettings", "ModelSettings", "Policy", "load_policy", "load_tokenizer", "stop_token_ids"]

BUNDLED = "bundled"
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
transformers_logging.disable_progress_bar()  # the display shows progress
_LOGITS_AT_ONCE = 2**25  # 128 MiB of float32


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
    ``dtype``: ``auto`` is float32 on a CPU, and on a GPU float32 weights under bf16 autocast. ``bfloat16`` holds the
    weights themselves in bf16. ``gradient_checkpointing`` trades time for memory, on a GPU only.
    """

    path: str = BUNDLED
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = True
    lora: LoraSettings = LoraSettings()


@dataclass(frozen=True)
class TokenScores:
    """Log-probability and entropy in nats; ``[i, j]`` is about token j given those before it, 0 off the mask."""

    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]


class Policy:
    """A causal language model with its tokenizer, able to score tokens and to stand in for its own reference.

    Args:
        model: the model, wrapped in peft adapters where LoRA is on.
        tokenizer: its tokenizer; never used between sampling and the loss.
        reference: a frozen copy of the starting weights, if a method wants one and LoRA is off.
        autocast: whether forward passes run under bf16 autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: PreTrainedModel | None = None,
        autocast: bool = False,
    ) -> None:
        self.model: Any = model  # a PreTrainedModel, or peft's wrapper around one
        self.tokenizer = tokenizer
        self.reference = reference
        self.autocast = autocast
        _check_head(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def has_adapters(self) -> bool:
        """Whether the trained weights are LoRA adapters."""
        return hasattr(self.model, "peft_config")

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimizer changes, in the model's order."""
        return ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)

    def precision(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in: bf16 autocast or nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    def score(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        *,
        temperature: float,
    ) -> TokenScores:
        r"""Log-probability and entropy of the masked tokens under the policy, with gradient where grad mode is on.

        .. math:: \log\pi_j = \log\operatorname{softmax}(z_{j-1} / T)_{x_j}, \qquad H_j = -\sum_v p_v \log p_v

        The head is applied to the hidden states before masked tokens alone, some thousand at a time, and (unless one
        piece holds them all) recomputed in the backward pass, so that memory does not grow with tokens x vocabulary.

        Args:
            input_ids: padded on the right.
            attention: False on padding.
            mask: the tokens wanted; column 0 must be False, because nothing precedes it.
            temperature: the rollout's.
        Returns:
            nats, float32 (float64 for a float64 model); 0 where the mask is False.
        """
        return _score(self.model, input_ids, attention, mask, temperature, self.precision())

    def score_reference(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention: Bool[Tensor, "rows tokens"],
        mask: Bool[Tensor, "rows tokens"],
        *,
        temperature: float,
    ) -> Float[Tensor, "rows tokens"]:
        """The same log-probs under the reference: the frozen copy, or the base model with adapters switched off.

        Raises:
            EngineError: the policy was loaded without a reference.
        """
        if self.reference is not None:
            return _score(self.reference, input_ids, attention, mask, temperature, self.precision()).logprobs
        if not self.has_adapters:
            raise EngineError("no reference model was loaded, but the method asks for its log-probs")
        with self.model.disable_adapter():
            return self.score(input_ids, attention, mask, temperature=temperature).logprobs

    @contextmanager
    def training(self) -> Iterator[None]:
        """The mode for passes with gradient: gradient checkpointing works in training mode only. No dropout is left."""
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder; adapters are merged in, and kept beside in ``adapter/``."""
        model = self.model
        if self.has_adapters:
            model.save_pretrained(folder / "adapter")
            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _score(
    model: nn.Module,
    input_ids: Tensor,
    attention: Tensor,
    mask: Tensor,
    temperature: float,
    precision: AbstractContextManager[Any],
) -> TokenScores:
    causal = _causal(model)
    rows, columns = mask.nonzero(as_tuple=True)
    with precision:
        output = causal.base_model(input_ids=input_ids, attention_mask=attention.long(), use_cache=False)
        hidden = output.last_hidden_state[rows, columns - 1]
        head = _head(causal)
        targets = input_ids[rows, columns]
        chunk = max(1, _LOGITS_AT_ONCE // causal.get_output_embeddings().weight.shape[0])

        def piece(part: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return logprobs_and_entropy(head(part), ids, temperature=temperature)

        recompute = torch.is_grad_enabled() and len(targets) > chunk
        pieces = [
            checkpoint(piece, part, ids, use_reentrant=False) if recompute else piece(part, ids)
            for part, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
    logprobs, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
    empty = logprobs.new_zeros(mask.shape)
    return TokenScores(
        empty.index_put((rows, columns), logprobs),
        empty.index_put((rows, columns), entropy),
    )


def _causal(model: Any) -> PreTrainedModel:
    """The causal language model inside peft's wrapper (adapters stay active), or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def _head(causal: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits, with the scalings that some families put behind the head."""
    config = causal.config.get_text_config()
    embed = causal.get_output_embeddings()
    divide = getattr(config, "logits_scaling", None) or 1.0  # Granite
    multiply = getattr(config, "logit_scale", None) or 1.0  # Cohere
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    def head(hidden: Tensor) -> Tensor:
        logits = embed(hidden)
        if divide != 1.0 or multiply != 1.0:
            logits = logits * (multiply / divide)
        capped: Tensor = torch.tanh(logits / cap) * cap if cap else logits
        return capped

    return head


@torch.no_grad()
def _check_head(model: Any) -> None:
    """Refuse a model whose logits are not its head applied to its hidden states: scores would be silently wrong."""
    causal = _causal(model)
    ids = torch.arange(4, device=model.device)[None]
    hidden = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours, theirs = _head(causal)(hidden), causal(input_ids=ids, use_cache=False).logits
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), atol=1e-2, rtol=1e-2):
        raise EngineError(
            f"{type(causal).__name__} computes its logits in a way that this version does not know; "
            "use a model of a plain causal family (Qwen, Llama, Mistral, Gemma, ...)"
        )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name.

    Raises:
        EngineError: there is none, or it cannot be read.
    """
    folder = _resolve(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"model.path: no tokenizer could be loaded from '{path}' ({_first_line(error)})") from error
    return tokenizer


def load_policy(model: ModelSettings, *, reference: bool = False, seed: int = 0) -> Policy:
    """Load model and tokenizer, put adapters on, and switch every dropout off.

    Args:
        model: the settings.
        reference: whether a frozen copy of the starting weights is kept (with LoRA none is needed).
        seed: of the adapters' starting weights.
    Raises:
        EngineError: no such model, not safetensors, or of an unsupported kind.
        ConfigError: cuda was asked for and there is none, or no layer fits ``lora.targets``.
    """
    device = _device(model)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    network = _load_network(model, dtype).to(device)
    tokenizer = load_tokenizer(model.path)
    frozen = None
    if reference and not model.lora.rank:
        frozen = _load_network(model, dtype).to(device).eval().requires_grad_(False)
    if model.gradient_checkpointing and on_gpu:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if model.lora.rank:
        network = _with_adapters(network, model.lora, seed)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Policy(network.eval(), tokenizer, reference=frozen, autocast=on_gpu and model.dtype == "auto")


def _device(model: ModelSettings) -> torch.device:
    if model.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: 'cuda' was asked for, but PyTorch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def _load_network(model: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    folder = _resolve(model.path)
    try:
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=model.attention, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise EngineError(f"model.path: no model could be loaded from '{model.path}' ({_first_line(error)})") from error
    return network


def _with_adapters(network: PreTrainedModel, lora: LoraSettings, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - slow import, needed with LoRA only

    targets = list(lora.targets) or "all-linear"
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng():  # peft draws from the global generator
            torch.manual_seed(derive_seed(seed, "lora"))
            return get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets: {_first_line(error)}") from error


def _resolve(path: str) -> str:
    if path == BUNDLED:
        return str(Path(__file__).parent / "base_model")
    if path.startswith((".", "/", "~")) or Path(path).exists():
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise EngineError(f"model.path: no folder '{path}'; give a Hugging Face folder, a hub name, or '{BUNDLED}'")
        return str(folder)
    return path


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def stop_token_ids(policy: Policy, extra: tuple[str, ...] = ()) -> tuple[int, ...]:
    """Every token that ends a completion, the one to close injected text with first.

    They are the tokenizer's end of sequence, those of the model's generation config, the known end-of-turn tokens that
    the tokenizer has as special tokens (a base model's own may differ from its template's), and ``extra``.

    Raises:
        ConfigError: a token of ``extra`` is not a single token of the vocabulary.
    """
    tokenizer = policy.tokenizer
    found: list[int] = []
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    configured = getattr(policy.model.generation_config, "eos_token_id", None)
    found += configured if isinstance(configured, list) else [configured] if configured is not None else []
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    known = tokenizer.get_vocab()
    found += [known[text] for text in _END_OF_TURN if known.get(text) in special]
    for text in extra:
        if text not in known:
            raise ConfigError(f"rollout.stop: '{text}' is not a token of this model's vocabulary")
        found.append(known[text])
    return tuple(dict.fromkeys(found))
