"""Conversations as text: under the tokenizer's chat template, Qwen2.5-Math's, or none."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Picture
from edge_grpo.data.pictures import PLACEHOLDER
from edge_grpo.data.settings import DataSettings

__all__ = ["QWEN_MATH_SYSTEM", "Tokenizer", "Vision", "render", "render_prompt", "turn"]

QWEN_MATH_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
"""System prompt of Qwen2.5-Math and of the EDGE-GRPO release."""


@runtime_checkable
class Tokenizer(Protocol):
    """The parts of a Hugging Face tokenizer used here."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def get_vocab(self) -> dict[str, int]:
        """Every token's text, mapped to its id."""

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **arguments: Any,
    ) -> Any:
        """A conversation in the format the model was trained on."""


@runtime_checkable
class Vision(Protocol):
    """The part of a vision-language model's processor used here (:class:`edge_grpo.models.vision.ModelVision`)."""

    def marker(self) -> str:
        """What stands for a picture in a rendered prompt."""
        ...

    def encode(self, text: str, pictures: Sequence[Picture], *, special: bool) -> tuple[int, ...]:
        """Token ids of a rendered prompt, with as many for each picture as the model reads."""
        ...


def turn(role: str, content: str) -> dict[str, str]:
    """A message of a conversation."""
    return {"role": role, "content": content}


def render(
    tokenizer: Tokenizer,
    turns: Sequence[dict[str, str]],
    data: DataSettings,
    *,
    open_answer: bool = True,
    vision: Vision | None = None,
) -> str:
    """The text of a conversation under ``data.template``.

    Args:
        tokenizer: the model's.
        turns: the messages; ``data.system_prompt`` comes before them.
        data: the template, and the arguments passed to a chat template.
        open_answer: whether the model's next answer is opened at the end.
        vision: reads the pictures that the placeholders stand for; None = there are none.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails.
    """
    if data.template == "chat":
        system = [turn("system", data.system_prompt)] if data.system_prompt else []
        return _chat(tokenizer, [*system, *turns], data, open_answer=open_answer, pictures=vision is not None)
    if vision is not None:
        turns = [turn(one["role"], one["content"].replace(PLACEHOLDER, vision.marker())) for one in turns]
    if data.template == "plain":
        opening = f"{data.system_prompt}\n" if data.system_prompt else ""
        return opening + "".join(f"{one['content']}\n" for one in turns)
    system = [turn("system", data.system_prompt or QWEN_MATH_SYSTEM)]
    shown = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in [*system, *turns])
    return f"{shown}<|im_start|>assistant\n" if open_answer else shown


def _chat(
    tokenizer: Tokenizer, turns: Sequence[dict[str, str]], data: DataSettings, *, open_answer: bool, pictures: bool
) -> str:
    """The same under the tokenizer's own template; some templates take a turn only as a list of parts."""
    if not tokenizer.chat_template:
        raise ConfigError("data.template=chat: the tokenizer has no template; set data.template=plain or qwen-math")
    in_parts = [
        {"role": one["role"], "content": _parts(one["content"], pictures=pictures and one["role"] != "system")}
        for one in turns
    ]
    last = turns[-1]["content"].split(PLACEHOLDER)[-1].strip() if turns else ""
    found: list[str] = []
    failure = ""
    forms: list[list[Mapping[str, Any]]] = [[*in_parts]] if pictures else [[*turns], [*in_parts]]
    for form in forms:
        try:
            shown = tokenizer.apply_chat_template(
                form, tokenize=False, add_generation_prompt=open_answer, **data.chat_template_kwargs
            )
        except Exception as error:  # noqa: BLE001 (a template is a program: bad syntax, its own refusals, type errors)
            failure = failure or (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            continue
        found.append(str(shown))
        if last in found[-1]:
            return found[-1]
    if found:
        return found[0]
    advice = "leave data.system_prompt empty (some templates reject one), or " if data.system_prompt else ""
    advice += "check data.chat_template_kwargs, or " if data.chat_template_kwargs else ""
    raise ConfigError(
        f"data.template=chat: the tokenizer's template fails: {failure}; {advice}set data.template=plain or qwen-math"
    )


def _parts(text: str, *, pictures: bool) -> list[dict[str, str]]:
    """A turn as templates of vision-language models take it."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(PLACEHOLDER) if pictures else [text]):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def render_prompt(
    tokenizer: Tokenizer, prompt: str, data: DataSettings, *, earlier: Sequence[str] = (), vision: Vision | None = None
) -> str:
    """The text of a prompt under ``data.template``, up to where the model continues.

    Args:
        tokenizer: the model's.
        prompt: the user's last turn.
        data: the template and the system prompt.
        earlier: the turns before it, alternating between user and assistant.
        vision: reads the pictures; None = there are none.

    Raises:
        ConfigError: the template is ``chat`` and the tokenizer has none, or one that fails.
    """
    texts = (*earlier, prompt)
    turns = [turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return render(tokenizer, turns, data, vision=vision)
