"""Encodes problems as prompt tokens, and injected text as tokens."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Problem
from edge_grpo.data.settings import DataSettings

__all__ = [
    "QWEN_MATH_SYSTEM",
    "REVISION_PHRASES",
    "Encoded",
    "Tokenizer",
    "check_count",
    "draw_variants",
    "encode_follow_up",
    "encode_problems",
    "encode_prompt",
    "encode_text",
    "encode_variants",
    "phrasings",
    "render",
    "render_prompt",
    "turn",
]

QWEN_MATH_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
"""System prompt of Qwen2.5-Math and of the EDGE-GRPO release."""

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


@runtime_checkable
class Tokenizer(Protocol):
    """The parts of a Hugging Face tokenizer used here."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def get_vocab(self) -> dict[str, int]:
        """Every token's text, mapped to its id."""

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool, **arguments: Any
    ) -> Any:
        """A conversation in the format the model was trained on."""


@dataclass(frozen=True)
class Encoded:
    """Problems with their prompt tokens, in order, and how many over-long ones were skipped or truncated."""

    problems: tuple[Problem, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    num_skipped: int = 0
    num_truncated: int = 0


def encode_text(tokenizer: Tokenizer, text: str, *, most: int | None = None) -> tuple[int, ...]:
    """Token ids of injected text, without special tokens.

    Args:
        tokenizer: the model's.
        text: the text.
        most: how many tokens are needed: a huge text with more yields only its first ones, at least ``most`` + 1.
    """
    return tuple(_encode(tokenizer, text, special=False, most=most, tail=False))


def render_prompt(tokenizer: Tokenizer, prompt: str, data: DataSettings, *, earlier: Sequence[str] = ()) -> str:
    """The text of a prompt under ``data.template``, up to where the model continues.

    Args:
        tokenizer: the model's.
        prompt: the user's last turn.
        data: the template and the system prompt.
        earlier: the turns before it, alternating between user and assistant.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails.
    """
    texts = (*earlier, prompt)
    return render(tokenizer, [turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)], data)


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


def encode_problems(tokenizer: Tokenizer, problems: Iterable[Problem], data: DataSettings) -> Encoded:
    """Encode the prompts of many problems, applying ``data.over_long``.

    Raises:
        DataError: a prompt is over-long and the rule is ``error``, or all are and the rule is ``skip``.
    """
    kept: list[Problem] = []
    prompts: list[tuple[int, ...]] = []
    over_long: list[tuple[Problem, tuple[int, ...]]] = []
    for problem in problems:
        ids = _encode_question(tokenizer, problem, problem.prompt, data)
        if len(ids) > data.max_prompt_tokens:
            over_long.append((problem, ids))
            if data.over_long != "truncate":
                continue
            ids = ids[-data.max_prompt_tokens :]
        kept.append(problem)
        prompts.append(ids)
    if over_long and data.over_long == "error":
        (problem, ids), most = over_long[0], max(len(ids) for _, ids in over_long)
        more = f"; {len(over_long)} prompts are over-long, the longest has {most}" if len(over_long) > 1 else ""
        raise DataError(
            f"problem {problem.id!r}: its prompt has {_count(ids, problem.prompt)} tokens, data.max_prompt_tokens is "
            f"{data.max_prompt_tokens}{more}; raise it, or set data.over_long=skip or truncate"
        )
    if over_long and not kept:
        raise DataError(
            f"all {len(over_long)} prompts exceed data.max_prompt_tokens = {data.max_prompt_tokens}; raise it"
        )
    counts = (0, len(over_long)) if data.over_long == "truncate" else (len(over_long), 0)
    return Encoded(tuple(kept), tuple(prompts), *counts)


def encode_variants(tokenizer: Tokenizer, problem: Problem, data: DataSettings) -> tuple[tuple[int, ...], ...]:
    """Token ids of a problem's variants, truncated like prompts if over-long, but never skipped.

    Raises:
        DataError: one is over-long and ``data.over_long`` is not ``truncate``.
    """
    found = [_encode_question(tokenizer, problem, text, data) for text in problem.variants]
    longest = max(map(len, found), default=0)
    count = _count(range(longest), max(problem.variants, key=len, default=""))
    if longest > data.max_prompt_tokens and data.over_long != "truncate":
        raise DataError(
            f"problem {problem.id!r}: a variant of its prompt has {count} tokens, data.max_prompt_tokens "
            f"is {data.max_prompt_tokens}; raise it, or set data.over_long=truncate"
        )
    return tuple(ids[-data.max_prompt_tokens :] for ids in found)


def _encode_question(tokenizer: Tokenizer, problem: Problem, text: str, data: DataSettings) -> tuple[int, ...]:
    """Token ids of a phrasing of a question, with the turns before it and the row's own system message."""
    if problem.system:
        data = replace(data, system_prompt=problem.system)
    return encode_prompt(tokenizer, text, data, earlier=problem.earlier)


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


def turn(role: str, content: str) -> dict[str, str]:
    """A message of a conversation."""
    return {"role": role, "content": content}


def render(
    tokenizer: Tokenizer, turns: Sequence[dict[str, str]], data: DataSettings, *, open_answer: bool = True
) -> str:
    """The text of a conversation under ``data.template``.

    Args:
        tokenizer: the model's.
        turns: the messages; ``data.system_prompt`` comes before them.
        data: the template, and the arguments passed to a chat template.
        open_answer: whether the model's next answer is opened at the end.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails.
    """
    if data.template == "plain":
        opening = f"{data.system_prompt}\n" if data.system_prompt else ""
        return opening + "".join(f"{one['content']}\n" for one in turns)
    if data.template == "qwen-math":
        system = turn("system", data.system_prompt or QWEN_MATH_SYSTEM)
        shown = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in [system, *turns])
        return f"{shown}<|im_start|>assistant\n" if open_answer else shown
    if not tokenizer.chat_template:
        raise ConfigError("data.template=chat: the tokenizer has no template; set data.template=plain or qwen-math")
    if data.system_prompt:
        turns = [turn("system", data.system_prompt), *turns]
    arguments = data.chat_template_kwargs
    try:
        return str(
            tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=open_answer, **arguments)
        )
    except Exception as error:  # noqa: BLE001 (a template is a program: bad syntax, its own refusals, type errors)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = "leave data.system_prompt empty (some templates reject one), or " if data.system_prompt else ""
        advice += "check data.chat_template_kwargs, or " if arguments else ""
        raise ConfigError(
            f"data.template=chat: the tokenizer's template fails: {lines[0].rstrip('.')}; "
            f"{advice}set data.template=plain or qwen-math"
        ) from None


def phrasings(problem: Problem) -> tuple[str, ...]:
    """All phrasings of a question, the original first.

    Example:
        >>> phrasings(Problem("1", "Compute 1+1.", ("2",), variants=("What is 1+1?",)))
        ('Compute 1+1.', 'What is 1+1?')
    """
    return (problem.prompt, *problem.variants)


def check_count(problem: Problem, count: int) -> None:
    """Reject a problem with fewer than ``count`` phrasings.

    Raises:
        DataError: it has fewer.
    """
    if len(phrasings(problem)) < count:
        raise DataError(
            f"problem {problem.id!r}: {len(phrasings(problem))} phrasings of the question, {count} wanted; add some to "
            "its row (data.fields.variants names the column), or lower method.num_variants"
        )


def draw_variants(problem: Problem, forms: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """Draw ``count`` distinct phrasings of a question, in random order; the original need not be among them.

    Raises:
        DataError: there are fewer.

    Source:
        Yao et al. 2025, R1-ShareVL, arXiv:2505.16673; as in the release, phrasings are redrawn at every visit.
    """
    check_count(problem, count)
    return rng.sample(forms, count)
