"""Models made on the spot for benchmarks: speed depends on shapes and on sampled lengths, not on training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from edge_grpo.config.sections import BUNDLED
from edge_grpo.models.loading import load_tokenizer, resolve

__all__ = ["QWEN2", "SMOLLM2_135M", "Maker", "bundled", "long_tailed", "qwen2", "smollm2_135m", "word_tokenizer"]

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
"""The shape of SmolLM2-135M, from its published configuration."""


QWEN2: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
"""The shapes of Qwen2.5, from their published configurations; what they share is in :func:`qwen2`."""


Maker = Callable[..., str]
"""Makes a model of a shape, given as keyword arguments, in a folder, and returns its path."""


def bundled(_: Path) -> str:
    """The folder of the model in this package."""
    return resolve(BUNDLED)


def smollm2_135m(folder: Path, **changes: Any) -> str:
    """A model of the shape of SmolLM2-135M with random weights; a word of its tokenizer is a token."""
    torch.manual_seed(0)
    shape = SMOLLM2_135M | changes
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    word_tokenizer(shape["vocab_size"]).save_pretrained(folder)
    return str(folder)


def qwen2(folder: Path, **shape: Any) -> str:
    """A Qwen2 model of a shape with random weights in bf16 and a tied head; a word of its tokenizer is a token."""
    torch.manual_seed(0)
    shared = {"vocab_size": 151936, "tie_word_embeddings": True, "eos_token_id": 0, "pad_token_id": 0}
    config = Qwen2Config(**shared | shape, bos_token_id=None, max_position_embeddings=4096)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = Qwen2ForCausalLM(config)
    network.to(torch.bfloat16).save_pretrained(folder)
    word_tokenizer(config.vocab_size).save_pretrained(folder)
    return str(folder)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words ``0``, ``1``, ...: one token each. Token 0 ends and pads."""
    words = {"<end>": 0, **{str(number): number for number in range(1, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="1"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")  # noqa: S106


def long_tailed(folder: Path, *, median: int = 8, share: float = 0.05) -> str:
    """A model of the bundled shape that samples short answers of a given median length, and a few that never end.

    Its layers add nothing: the next token depends on the last one alone, which is in one of three classes. After the
    prompt, ``share`` of the rows enter the class that never ends; in the other one each token ends the answer with the
    probability that makes ``median`` the median length.
    """
    config = Qwen2Config.from_pretrained(resolve(BUNDLED), tie_word_embeddings=False)
    tokenizer = load_tokenizer(BUNDLED)
    network, vocabulary = Qwen2ForCausalLM(config), config.vocab_size
    stop, tokens = tokenizer.eos_token_id, torch.arange(vocabulary)
    short = (tokens >= vocabulary - 40) & (tokens < vocabulary - 20)
    long = tokens >= vocabulary - 20
    kind = torch.where(short, 1, torch.where(long, 2, 0))
    ends = 1 - 0.5 ** (1 / median)
    logits = torch.full((3, vocabulary), -30.0)  # by class of the last token: prompt, short, long
    logits[0, short], logits[0, long] = math.log((1 - share) / 20), math.log(share / 20)
    logits[1, short], logits[1, stop] = math.log((1 - ends) / 20), math.log(ends)
    logits[2, long] = math.log(1 / 20)
    size = config.hidden_size**0.5  # the last norm makes a unit vector this long
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        network.model.embed_tokens.weight.zero_()
        network.model.embed_tokens.weight[tokens, kind] = 1.0
        network.lm_head.weight.zero_()
        network.lm_head.weight[:, :3] = logits.T / size
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
