"""The tokenizer of the bundled models."""

from collections.abc import Sequence
from typing import Any, Final

__all__ = ["END", "build_tokenizer"]

_PAD, _BOS = "<|endoftext|>", "<|bos|>"
END: Final = "<|end|>"
"""Ends every turn of a conversation, and so every answer."""

_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(*, further: Sequence[str] = (), chat_template: str = _CHAT) -> Any:
    """The base model's tokenizer: one token per byte (so per ASCII character), six special tokens, a chat template.

    Any text in Unicode's composed form (NFC) survives encoding and decoding.

    Args:
        further: more special tokens, which come last.
        chat_template: its chat template.
    """
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415 (only needed here)
    from tokenizers import decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    specials = [_PAD, _BOS, END, *_ROLES]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*specials, *bytes_, *further]
    backend = Backend(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    # AutoTokenizer loads the tokenizer of a qwen2 model as a Qwen2Tokenizer, which has exactly this setup and whose
    # unknown token is <|endoftext|>: without it, the vocabulary would grow by one on loading.
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*specials, *further])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=END,
        pad_token=_PAD,
        unk_token=_PAD,
        extra_special_tokens=[*_ROLES, *further],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer
