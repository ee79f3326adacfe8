"""Stored preferences: two answers to a prompt, one of them chosen, read from files and turned into groups of two."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Group, Pair, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.data.prompts import Tokenizer, encode_follow_up, encode_prompt, encode_text
from edge_grpo.data.readers import BadRowError, described, is_text, load_records, required, row_id
from edge_grpo.data.settings import DataSettings, PairFieldNames

__all__ = ["EncodedPair", "EncodedPairs", "LoadedPairs", "encode_pair", "encode_pairs", "load_pairs", "pair_group"]


@dataclass(frozen=True)
class LoadedPairs:
    """Pairs, and how many bad rows were skipped."""

    pairs: tuple[Pair, ...]
    num_skipped: int = 0


@dataclass(frozen=True)
class EncodedPair:
    """A pair as tokens. An answer ends with the stop token unless it was truncated."""

    pair: Pair
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    truncated: bool = False


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as tokens, in order, and how many over-long ones were skipped or truncated."""

    pairs: tuple[EncodedPair, ...]
    num_skipped: int = 0
    num_truncated: int = 0


def load_pairs(
    path: str,
    fields: PairFieldNames | None = None,
    *,
    split: str = "train",
    bad_rows: Literal["error", "skip"] = "error",
) -> LoadedPairs:
    """Load the pairs of a file, a saved dataset or a hub dataset.

    An answer is text or a conversation: a list of messages with ``role`` and ``content`` that ends with the
    assistant's. The messages before it form the prompt and must be the same for both answers; the prompt column is then
    ignored. Otherwise the prompt column holds the user's text, or messages that end with the user's.

    Args:
        path: a ``.json`` (list of objects), ``.jsonl`` or ``.parquet`` file, a ``save_to_disk`` folder, or a hub name.
        fields: which column holds what.
        split: which split of a dataset to read; files have none.
        bad_rows: ``skip`` drops unusable rows and counts them.

    Returns:
        the pairs in file order; rows without an id are named after the file and row number.

    Raises:
        DataError: the path is missing or unreadable, has no usable row, or, unless ``bad_rows`` is ``skip``, has an
            unusable row.
    """
    names = fields or PairFieldNames()
    pairs, skipped = load_records(
        path,
        lambda row, name: _pair(row, names, name),
        split=split,
        split_setting="data.pairs_split",
        fields_setting="data.pair_fields",
        id_field=names.id,
        noun="pairs",
        bad_rows=bad_rows,
    )
    return LoadedPairs(pairs, skipped)


Turns = tuple[tuple[str, str], ...]  # (role, text)


def _pair(row: Mapping[str, object], names: PairFieldNames, default_id: str) -> Pair:
    before, chosen = _answer(row, names.chosen)
    before_rejected, rejected = _answer(row, names.rejected)
    if before != before_rejected:
        raise BadRowError(f"fields '{names.chosen}' and '{names.rejected}': answers to different conversations")
    if chosen.strip() == rejected.strip():
        raise BadRowError(f"fields '{names.chosen}' and '{names.rejected}': the same answer twice")
    where = names.chosen if before else names.prompt
    turns = before or _prompt(required(row, names.prompt), names.prompt)
    system, *rest = turns if turns[0][0] == "system" else (("system", ""), *turns)
    roles = [role for role, _ in rest]
    if not rest or roles != ["user", "assistant"] * (len(rest) // 2) + ["user"]:
        found = ", ".join(role for role, _ in turns)
        wanted = "wanted alternating user and assistant, user first and last"
        raise BadRowError(f"field '{where}': the prompt's messages have roles {found}; {wanted}")
    *earlier, prompt = (text for _, text in rest)
    return Pair(row_id(row, names.id, default_id), prompt, chosen, rejected, tuple(earlier), system[1])


def _answer(row: Mapping[str, object], name: str) -> tuple[Turns, str]:
    """The messages before an answer, if any, and the answer."""
    value = required(row, name)
    if not isinstance(value, list | tuple):
        return (), _non_empty(value, name, "text or a list of messages")
    *before, (role, text) = _messages(value, name)
    if role != "assistant":
        raise BadRowError(f"field '{name}': the last message has role {role!r}, wanted 'assistant'")
    return tuple(before), text


def _prompt(value: object, name: str) -> Turns:
    if isinstance(value, list | tuple):
        return _messages(value, name)
    return (("user", _non_empty(value, name, "text or a list of messages")),)


def _messages(value: list[object] | tuple[object, ...], name: str) -> Turns:
    if not value:
        raise BadRowError(f"field '{name}': an empty list, wanted messages")
    turns = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise BadRowError(f"field '{name}', message {number}: {described(message)}, wanted an object")
        role, text = (message.get(key) for key in ("role", "content"))
        if not is_text(role, name):
            raise BadRowError(f"field '{name}', message {number}, role: {described(role)}, wanted text")
        turns.append((role, _non_empty(text, f"{name}', message {number}, 'content", "text")))
    return tuple(turns)


def _non_empty(value: object, name: str, wanted: str) -> str:
    if not is_text(value, name) or not value.strip():
        raise BadRowError(f"field '{name}': {described(value)}, wanted {wanted}")
    return value


def encode_pair(
    tokenizer: Tokenizer, pair: Pair, data: DataSettings, *, stop_id: int, max_new_tokens: int
) -> EncodedPair | None:
    """Encode a pair: the prompt under ``data.template``, each answer followed by the stop token.

    Args:
        tokenizer: the model's.
        pair: what to encode; its own system message, if any, replaces ``data.system_prompt``.
        data: the template, and the ``over_long`` rule for prompts and answers.
        stop_id: the token that ends an answer.
        max_new_tokens: the longest answer, including the stop token.

    Returns:
        the tokens; None if the rule is ``skip`` and something is over-long, or if truncation makes the two answers
        equal. A truncated prompt keeps its last tokens, an answer its first.

    Raises:
        ConfigError: the template cannot be used.
        DataError: something is over-long and the rule is ``error``.
    """
    prompt = _prompt_ids(tokenizer, pair, data)
    chosen, rejected = (
        (*encode_text(tokenizer, text, most=max_new_tokens), stop_id) for text in (pair.chosen, pair.rejected)
    )
    limits = {"prompt": ("data.max_prompt_tokens", data.max_prompt_tokens)}
    limits |= dict.fromkeys(("chosen answer", "rejected answer"), ("rollout.max_new_tokens", max_new_tokens))
    excess = ""
    for ids, (name, (setting, limit)) in zip((prompt, chosen, rejected), limits.items(), strict=True):
        if len(ids) > limit:
            excess = excess or f"its {name} has {len(ids)} tokens, {setting} is {limit}; raise it"
    if excess and data.over_long == "error":
        raise DataError(f"pair {pair.id!r}: {excess}, or set data.over_long=skip or truncate")
    if excess and (data.over_long == "skip" or chosen[:max_new_tokens] == rejected[:max_new_tokens]):
        return None
    return EncodedPair(
        pair, prompt[-data.max_prompt_tokens :], chosen[:max_new_tokens], rejected[:max_new_tokens], bool(excess)
    )


def _prompt_ids(tokenizer: Tokenizer, pair: Pair, data: DataSettings) -> tuple[int, ...]:
    """Token ids of all turns: each earlier answer is encoded separately, then the user's next turn."""
    data = replace(data, system_prompt=pair.system or data.system_prompt)
    users, answers = (*pair.earlier[::2], pair.prompt), pair.earlier[1::2]
    ids = encode_prompt(tokenizer, users[0], data)
    for answer, text in zip(answers, users[1:], strict=True):
        ids += encode_text(tokenizer, answer) + encode_follow_up(tokenizer, text, data)
    return ids


def encode_pairs(
    tokenizer: Tokenizer, pairs: Iterable[Pair], data: DataSettings, *, stop_id: int, max_new_tokens: int
) -> EncodedPairs:
    """Encode many pairs, counting the over-long ones that were skipped or truncated.

    Raises:
        ConfigError: the template cannot be used.
        DataError: as in :func:`encode_pair`, or every pair is over-long and the rule is ``skip``.
    """
    every = [encode_pair(tokenizer, pair, data, stop_id=stop_id, max_new_tokens=max_new_tokens) for pair in pairs]
    kept = tuple(one for one in every if one is not None)
    if every and not kept:
        raise DataError(
            f"all {len(every)} pairs exceed data.max_prompt_tokens = {data.max_prompt_tokens} or "
            f"rollout.max_new_tokens = {max_new_tokens}; raise them"
        )
    return EncodedPairs(kept, len(every) - len(kept), sum(one.truncated for one in kept))


def pair_group(encoded: EncodedPair, *, stop_id: int) -> Group:
    """The pair as a group of two rows, the chosen answer (right, reward 1) and the rejected one (wrong, reward 0)."""
    answers = ((encoded.chosen_ids, Verdict.CORRECT, 1.0), (encoded.rejected_ids, Verdict.WRONG, 0.0))
    rows = tuple(
        Row(
            Rollout(encoded.prompt_ids, (Span(ids, Segment.INJECTED),), finished=ids[-1] == stop_id),
            Grade(verdict, reward),
        )
        for ids, verdict, reward in answers
    )
    pair = encoded.pair
    return Group(Problem(pair.id, pair.prompt, (pair.chosen,)), rows)
