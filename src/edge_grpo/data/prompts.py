"""Encodes problems as prompt tokens, and injected text as tokens."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Problem, Prompt, Scene
from edge_grpo.data.pictures import UnusableImageError
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import Tokenizer, Vision, render, render_prompt, turn

__all__ = [
    "REVISION_PHRASES",
    "Prompts",
    "check_count",
    "draw_variants",
    "encode_follow_up",
    "encode_problems",
    "encode_prompt",
    "encode_question",
    "encode_text",
    "phrasings",
]

REVISION_PHRASES = (
    "I may be wrong. Check again.",
    "Is that right? Look once more.",
    "Maybe there is another way.",
    "Did you overlook something?",
    "Go through it again, step by step.",
)
"""User messages that ask for an answer, right or wrong, to be revised in a second turn."""


_LONGEST_ENCODED_WHOLE = 100_000  # characters, encoded in a fraction of a second; ten million take gigabytes
_MARK = "\ue000answer\ue000"  # placeholder for an answer while a conversation is rendered


T = TypeVar("T")


@dataclass(frozen=True)
class Prompts:
    """Encoded problems, in order, and how many were left out: over-long, or with a damaged image; and how many cut."""

    prompts: tuple[Prompt, ...]
    num_skipped: int = 0
    num_truncated: int = 0
    num_damaged: int = 0


def encode_text(tokenizer: Tokenizer, text: str, *, most: int | None = None) -> tuple[int, ...]:
    """Token ids of injected text, without special tokens.

    Args:
        tokenizer: the model's.
        text: the text.
        most: how many tokens are needed: a huge text with more yields only its first ones, at least ``most`` + 1.
    """
    return tuple(_encode(tokenizer, text, special=False, most=most, tail=False))


def encode_prompt(
    tokenizer: Tokenizer, prompt: str, data: DataSettings, *, earlier: Sequence[str] = ()
) -> tuple[int, ...]:
    """Token ids of a prompt under ``data.template``; only ``plain`` lets the tokenizer add its own first token.

    Arguments as in :func:`render_prompt`. A huge prompt is cut to its end before it is encoded; what remains is still
    longer than ``data.max_prompt_tokens``.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails.
        DataError: the prompt has no tokens.
    """
    text, special = render_prompt(tokenizer, prompt, data, earlier=earlier), data.template == "plain"
    ids = tuple(_encode(tokenizer, text, special=special, most=data.max_prompt_tokens, tail=True))
    if not ids:
        raise DataError(f"the prompt {prompt[:100]!r} has no tokens")
    return ids


def encode_question(tokenizer: Tokenizer, problem: Problem, data: DataSettings, vision: Vision | None = None) -> Prompt:
    """A problem's prompt: its turns, the row's own system message, ``data.instruction``, and the tokens of its images.

    Raises:
        ConfigError: the template cannot be used, or the problem has images and the model reads none.
        UnusableImageError: an image cannot be decoded, or the model's processor rejects the prompt.
    """
    data = replace(data, system_prompt=problem.system) if problem.system else data
    text = f"{problem.prompt}\n{data.instruction}" if data.instruction else problem.prompt
    if not problem.images:
        return Prompt(problem, encode_prompt(tokenizer, text, data, earlier=problem.earlier))
    if vision is None:
        raise ConfigError(
            f"problem {problem.id!r} has images, but the model of model.path reads only text; use a vision-language "
            "model (model.path=bundled-vision is a small one)"
        )
    shown = render_prompt(tokenizer, text, data, earlier=problem.earlier, vision=vision)
    special = data.template == "plain"
    ids = vision.encode(shown, problem.images, special=special)
    return Prompt(problem, ids, scene=Scene(shown, problem.images, len(ids), special))


def encode_problems(
    tokenizer: Tokenizer,
    problems: Iterable[Problem],
    data: DataSettings,
    *,
    vision: Vision | None = None,
    variants: int = 1,
    transformed: bool = False,
) -> Prompts:
    """Encode the prompts of many problems, applying ``data.over_long``, and ``data.bad_rows`` to damaged images.

    Args:
        tokenizer: the model's.
        problems: what to encode.
        data: template and rules.
        vision: reads images; None = the model does not.
        variants: how many phrasings of each problem are needed; above 1, the others are encoded too, truncated like
            prompts if over-long, but never skipped. Those of problems with images are only measured.
        transformed: whether images are shown in other ways, so that a phrasing may be drawn more than once.

    Raises:
        DataError: a prompt is over-long and the rule is ``error``, or all are and the rule is ``skip``; a variant is
            and the rule is not ``truncate``; there are too few; or an image is damaged and bad rows are an error.
    """
    kept: list[Prompt] = []
    over_long: list[Prompt] = []
    num_damaged = num_truncated = 0
    for problem in problems:
        try:
            prompt = encode_question(tokenizer, problem, data, vision)
        except UnusableImageError as error:
            if data.bad_rows == "error":
                raise DataError(f"{error}, or set data.bad_rows=skip") from None
            num_damaged += 1
            continue
        if len(prompt.prompt_ids) > data.max_prompt_tokens:
            over_long.append(prompt)
            if data.over_long != "truncate" or prompt.scene:
                continue
            num_truncated += 1
            prompt = replace(prompt, prompt_ids=prompt.prompt_ids[-data.max_prompt_tokens :])
        if variants > 1:
            check_count(problem, variants, transformed=transformed)
            prompt = _with_variants(tokenizer, prompt, data)
        kept.append(prompt)
    if over_long and data.over_long == "error":
        raise DataError(_over_long(over_long, data))
    if over_long and not kept:
        raise DataError(
            f"all {len(over_long)} prompts exceed data.max_prompt_tokens = {data.max_prompt_tokens}; raise it"
        )
    if num_damaged and not kept:
        raise DataError(f"all {num_damaged} problems have damaged images")
    return Prompts(tuple(kept), len(over_long) - num_truncated, num_truncated, num_damaged)


def _over_long(prompts: Sequence[Prompt], data: DataSettings) -> str:
    first, most = prompts[0], max(len(prompt.prompt_ids) for prompt in prompts)
    more = f"; {len(prompts)} prompts are over-long, the longest has {most}" if len(prompts) > 1 else ""
    remedy = (
        "lower data.images.max_pixels, or set data.over_long=skip"
        if first.scene
        else ("or set data.over_long=skip or truncate")
    )
    return (
        f"problem {first.problem.id!r}: its prompt has {_count(first.prompt_ids, first.problem.prompt)} tokens"
        f"{', those of its images included' if first.scene else ''}, data.max_prompt_tokens is "
        f"{data.max_prompt_tokens}{more}; raise it, {remedy}"
    )


def _with_variants(tokenizer: Tokenizer, prompt: Prompt, data: DataSettings) -> Prompt:
    """A prompt with the token ids of the problem's other phrasings; with images, these are only measured.

    Raises:
        DataError: one is over-long and ``data.over_long`` is not ``truncate``.
    """
    problem = prompt.problem
    others = [replace(problem, prompt=text) for text in problem.variants]
    if prompt.scene:  # an image takes the same tokens in all of them
        plain = replace(data, max_prompt_tokens=10**9)  # as long as they are
        measured = [encode_question(tokenizer, replace(one, images=()), plain) for one in (problem, *others)]
        images = len(prompt.prompt_ids) - len(measured[0].prompt_ids)
        lengths = [len(one.prompt_ids) + images for one in measured[1:]]
        found: list[tuple[int, ...]] = []
    else:
        found = [encode_question(tokenizer, one, data).prompt_ids for one in others]
        lengths = list(map(len, found))
    longest = max(lengths, default=0)
    if longest > data.max_prompt_tokens and (prompt.scene or data.over_long != "truncate"):
        count = _count(range(longest), max(problem.variants, key=len, default=""))
        raise DataError(
            f"problem {problem.id!r}: a variant of its prompt has {count} tokens, data.max_prompt_tokens "
            f"is {data.max_prompt_tokens}; raise it, or "
            + ("lower data.images.max_pixels" if prompt.scene else "set data.over_long=truncate")
        )
    cut = tuple(ids[-data.max_prompt_tokens :] for ids in found)
    return replace(prompt, variant_ids=cut, longest=max(len(prompt.prompt_ids), longest) if prompt.scene else 0)


def encode_follow_up(tokenizer: Tokenizer, text: str, data: DataSettings) -> tuple[int, ...]:
    """Token ids to append to an answer (without its stop token): the user says ``text`` and the model continues.

    Prompt, answer and these ids together form the prompt of a second turn; the answer's ids are never decoded.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails or drops earlier answers.
    """
    turns = [turn("user", "."), turn("assistant", _MARK), turn("user", text)]
    before, mark, after = render(tokenizer, turns, data).rpartition(_MARK)
    if not mark or not before:
        raise ConfigError("data.template: the chat template drops earlier answers; use another template")
    return encode_text(tokenizer, after)


def _encode(tokenizer: Tokenizer, text: str, *, special: bool, most: int | None, tail: bool) -> list[int]:
    """Token ids; for a huge text with more than ``most``, only those at its end or beginning.

    No token covers more characters than the longest one in the vocabulary. If a tokenizer drops or merges characters
    before encoding, that many characters can yield too few tokens; then the whole text is encoded.
    """
    if most is not None and len(text) > _LONGEST_ENCODED_WHOLE:
        room = (most + 1) * max(map(len, tokenizer.get_vocab()))
        ids = tokenizer.encode(text[-room:] if tail else text[:room], add_special_tokens=special)
        if len(ids) > most:
            return ids
    return tokenizer.encode(text, add_special_tokens=special)


def _count(ids: Sequence[int], text: str) -> str:
    return f"{len(ids)}" if len(text) <= _LONGEST_ENCODED_WHOLE else f"at least {len(ids)}"


def phrasings(problem: Problem) -> tuple[str, ...]:
    """All phrasings of a question, the original first.

    Example:
        >>> phrasings(Problem("1", "Compute 1+1.", ("2",), variants=("What is 1+1?",)))
        ('Compute 1+1.', 'What is 1+1?')
    """
    return (problem.prompt, *problem.variants)


def check_count(problem: Problem, count: int, *, transformed: bool = False) -> None:
    """Reject a problem with fewer than ``count`` phrasings, unless it has images that are shown in other ways.

    Raises:
        DataError: it has fewer.
    """
    if len(phrasings(problem)) < count and not (transformed and problem.images):
        raise DataError(
            f"problem {problem.id!r}: {len(phrasings(problem))} phrasings of the question, {count} wanted; add some to "
            "its row (data.fields.variants names the column), or lower method.num_variants"
        )


def draw_variants(problem: Problem, forms: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """Draw ``count`` distinct phrasings of a question, in random order; the original need not be among them.

    A problem with images may have fewer: then each is drawn as often as any other, or once more.

    Raises:
        DataError: there are fewer, and no images.

    Source:
        Yao et al. 2025, R1-ShareVL, arXiv:2505.16673; as in the release, phrasings are redrawn at every visit.
    """
    check_count(problem, count, transformed=True)
    if len(forms) >= count:
        return rng.sample(forms, count)
    whole, rest = divmod(count, len(forms))
    drawn = [*forms] * whole + rng.sample(forms, rest)
    rng.shuffle(drawn)
    return drawn
