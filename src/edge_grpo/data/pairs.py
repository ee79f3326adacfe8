"""Stored preferences: two answers to a prompt, one of them chosen, read from files and turned into groups of two."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Group, Pair, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.data.messages import Turns, conversation, listed, non_empty, read_messages, read_prompt
from edge_grpo.data.pictures import PLACEHOLDER
from edge_grpo.data.prompts import encode_follow_up, encode_prompt, encode_text
from edge_grpo.data.readers import BadRowError, check_subset, joined, load_records, required, row_id
from edge_grpo.data.settings import DataSettings, PairFieldNames, Paths, sources
from edge_grpo.data.templates import Tokenizer

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
    path: Paths,
    fields: PairFieldNames | None = None,
    *,
    split: str = "train",
    subset: str = "",
    bad_rows: Literal["error", "skip"] = "error",
) -> LoadedPairs:
    """Load the pairs of a file, a saved dataset or a hub dataset, or of several, one after another.

    An answer is text or a conversation: a list of messages with ``role`` and ``content`` that ends with the
    assistant's. The messages before it form the prompt and must be the same for both answers; the prompt column is then
    ignored. Otherwise the prompt column holds the user's text, or messages that end with the user's.

    Args:
        path: what ``data.pairs`` may be.
        fields: which column holds what.
        split: which split of a dataset to read; files have none.
        subset: which subset of a hub dataset to read.
        bad_rows: ``skip`` drops unusable rows and counts them.

    Returns:
        the pairs in file order; rows without an id are named after the file and row number.

    Raises:
        DataError: the path is missing or unreadable, has no usable row, or, unless ``bad_rows`` is ``skip``, has an
            unusable row.
    """
    names = fields or PairFieldNames()
    paths = tuple(sources(path))
    check_subset(paths, subset, "data.pairs_subset")
    loaded = [
        load_records(
            each,
            lambda row, name: _pair(row, names, name),
            split=split,
            split_setting="data.pairs_split",
            subset=subset,
            subset_setting="data.pairs_subset",
            fields_setting="data.pair_fields",
            id_field=names.id,
            noun="pairs",
            bad_rows=bad_rows,
        )
        for each in paths
    ]
    return LoadedPairs(joined(pairs for pairs, _ in loaded), sum(skipped for _, skipped in loaded))


def _pair(row: Mapping[str, object], names: PairFieldNames, default_id: str) -> Pair:
    before, chosen = _answer(row, names.chosen)
    before_rejected, rejected = _answer(row, names.rejected)
    if before != before_rejected:
        raise BadRowError(f"fields '{names.chosen}' and '{names.rejected}': answers to different conversations")
    if chosen.strip() == rejected.strip():
        raise BadRowError(f"fields '{names.chosen}' and '{names.rejected}': the same answer twice")
    found = conversation(before, names.chosen) if before else read_prompt(required(row, names.prompt), names.prompt)
    if found.images or any(PLACEHOLDER in text for text in (*found.earlier, found.prompt)):
        raise BadRowError(f"field '{names.prompt}': has an image; stored pairs are text only")
    return Pair(row_id(row, names.id, default_id), found.prompt, chosen, rejected, found.earlier, found.system)


def _answer(row: Mapping[str, object], name: str) -> tuple[Turns, str]:
    """The messages before an answer, if any, and the answer."""
    value = required(row, name)
    messages = listed(value)
    if messages is None:
        return (), non_empty(value, name, "text or a list of messages")
    *before, (role, text) = read_messages(messages, name)
    if role != "assistant":
        raise BadRowError(f"field '{name}': the last message has role {role!r}, wanted 'assistant'")
    return tuple(before), text


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
