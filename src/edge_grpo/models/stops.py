"""What ends a completion, and which of its tokens are markers of the conversation rather than text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.turns import Turns, turns_of
from edge_grpo.models.policy import Policy

__all__ = ["Stops", "find_stops", "marker_ids"]

_END_OF_TEXT = "<|endoftext|>"  # the end of a document in every vocabulary that has it, never part of an answer
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>")
_CHANNEL, _END_OF_MESSAGE = "<|channel|>", "<|end|>"  # harmony (gpt-oss): an answer is several messages


@dataclass(frozen=True)
class Stops:
    """What ends a completion.

    ``token_ids``: tokens that only end it; the first one also closes injected text. ``texts``: strings that end it as
    soon as its decoded text contains one; their tokens are part of the answer.
    """

    token_ids: tuple[int, ...]
    texts: tuple[str, ...] = ()


def find_stops(policy: Policy, data: DataSettings | None = None, extra: Sequence[str] = ()) -> Stops:
    """What ends a completion of this model.

    Stop tokens are the tokenizer's end-of-sequence token, those of the model's generation config, the token with which
    the template in use ends an answer (a base model's generation config may not name it), ``<|endoftext|>``, and the
    tokens in ``extra``. Known end-of-turn tokens of the vocabulary are added only if the generation config names none;
    never gpt-oss's ``<|end|>``, which ends a channel, not the answer. What else is in ``extra`` is a stop string.

    Args:
        policy: the model and its tokenizer.
        data: the template in use; None = the default settings.
        extra: ``rollout.stop``.

    Raises:
        ConfigError: an ``extra`` string is empty, or there are no stop tokens.
    """
    tokenizer, known = policy.tokenizer, policy.tokenizer.get_vocab()
    single = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    configured = getattr(policy.model.generation_config, "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured] if configured is not None else []
    turns = [] if named else [end for end in _END_OF_TURN if not _ends_a_message(end, known)]
    found = [*([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *named]
    found += _end_of_turn(tokenizer, turns_of(tokenizer, data or DataSettings()), single)
    found += [known[text] for text in (*turns, _END_OF_TEXT) if known.get(text) in single]
    texts = []
    for text in extra:
        if not text:
            raise ConfigError("rollout.stop: got an empty string, which every completion contains; drop it")
        if known.get(text) in single and not _is_tag(text, known):
            found.append(known[text])
        else:
            texts.append(_text_of(tokenizer, text, known))
    if not found:
        raise ConfigError("rollout.stop: neither tokenizer nor generation config has a stop token; set rollout.stop")
    return Stops(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(texts)))


def marker_ids(tokenizer: Any, data: DataSettings) -> frozenset[int]:
    """Tokens that are not text: the tokenizer's own (begin, end, padding, ...) and the template's markers of turns.

    Other special tokens are text that a reward may ask for: tags such as ``</think>``, and gpt-oss's channels.
    """
    known = tokenizer.get_vocab()
    own = {known[text] for text in tokenizer.special_tokens_map.values() if isinstance(text, str) and text in known}
    if _CHANNEL in known:
        return frozenset(own)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    used = special & set(tokenizer.encode(turns_of(tokenizer, data).around, add_special_tokens=False))
    return frozenset(own | {token for token in used if not _is_tag(tokenizer.convert_ids_to_tokens(token), known)})


def _end_of_turn(tokenizer: Any, turns: Turns, single: set[int]) -> list[int]:
    """The token with which a template ends an answer, if it is one."""
    (first, *_) = tokenizer.encode(turns.closing, add_special_tokens=False) or [-1]
    if first not in single or _ends_a_message(tokenizer.convert_ids_to_tokens(first), tokenizer.get_vocab()):
        return []
    return [first]


def _ends_a_message(token: str, known: dict[str, int]) -> bool:
    """Whether a token ends one message of several, rather than the answer."""
    return token == _END_OF_MESSAGE and _CHANNEL in known


def _is_tag(text: str, known: dict[str, int]) -> bool:
    """Whether a token is one of a pair of tags around part of an answer, such as ``<think>`` and ``</think>``."""
    if not (text.startswith("<") and text.endswith(">") and text.strip("</>").isidentifier()):
        return False
    return text.startswith("</") or f"</{text.strip('</>')}>" in known


def _text_of(tokenizer: Any, text: str, known: dict[str, int]) -> str:
    """The stop string that is meant; an entry of the vocabulary such as ``Ċ`` means the text of its token."""
    if text in known and not text.isascii():
        return str(tokenizer.decode([known[text]])) or text
    return text
