"""What a chat template puts around the turns of a conversation: markers, what it opens for the model, how turns end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge_grpo.base.errors import ConfigError
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import Tokenizer, render, turn

__all__ = ["Turns", "idle_arguments", "turns_of"]

_QUESTION, _ANSWER = "\ue000question\ue000", "\ue000answer\ue000"  # placeholders
_OPENINGS = re.compile(r"(<think>\s*(</think>\s*)?|<\|channel\|>.*)\Z", re.DOTALL)  # thoughts, gpt-oss's channels


@dataclass(frozen=True)
class Turns:
    """A template's own text, found by rendering placeholders.

    ``header``: between a user's message and the model's answer. ``opened``: what a prompt adds to the header, so that
    the model continues in the middle of its answer, such as ``<think>``. ``closing``: what follows the last answer.
    ``around``: all the template's text around the turns of a conversation, without ``opened``.
    """

    header: str = ""
    opened: str = ""
    closing: str = ""
    around: str = ""

    def opened_in(self, prompt: str) -> str:
        """What a rendered prompt opened: templates may decide by the conversation."""
        _, found, rest = prompt.rpartition(self.header) if self.header.strip() else ("", "", "")
        return rest if found else self.opened


def turns_of(tokenizer: Tokenizer, data: DataSettings) -> Turns:
    """The text that ``data.template`` puts around turns; empty where the template refuses such a conversation.

    Thoughts or a channel that the template shows before an answer, earlier ones included, are no part of the header.
    """
    question, answer = turn("user", _QUESTION), turn("assistant", _ANSWER)
    asked = _rendered(tokenizer, data, question)
    before, _, after = asked.partition(_QUESTION)
    earlier = _rendered(tokenizer, data, question, answer, turn("user", "."), open_answer=False)
    header = _header(after, earlier.partition(_QUESTION)[2].partition(_ANSWER)[0] if earlier else after)
    closing = _rendered(tokenizer, data, question, answer, open_answer=False).partition(_ANSWER)[2]
    whole = _rendered(tokenizer, data, turn("system", "."), question, answer, question, open_answer=False)
    return Turns(header, after[len(header) :], closing, "".join((before, header, earlier, closing, whole)))


def idle_arguments(tokenizer: Tokenizer, data: DataSettings) -> Iterator[str]:
    """One line for each of ``data.chat_template_kwargs`` that leaves prompts as they are.

    Raises:
        ConfigError: the template fails.
    """
    turns = [turn("user", "?"), turn("assistant", "."), turn("user", "?")]

    def shown(arguments: dict[str, object]) -> list[str]:
        given = replace(data, chat_template_kwargs=arguments)
        return [render(tokenizer, some, given) for some in (turns[:1], turns)]

    for name, value in data.chat_template_kwargs.items():
        others = {other: own for other, own in data.chat_template_kwargs.items() if other != name}
        if shown({**others, name: value}) == shown(others):
            yield (
                f"data.chat_template_kwargs: {name}={value!r} does not change the prompts: it is the template's "
                "default, or the template does not read it"
            )


def _header(after: str, shown: str) -> str:
    """The part of a prompt's end that belongs to the header.

    Args:
        after: what follows the question in a prompt; a template may add instructions to the last question alone.
        shown: what follows an earlier question that has been answered.
    """
    shown = _OPENINGS.sub("", shown)
    found = 0 if after.startswith(shown) else after.rfind(shown)
    header = _shared(after, shown) if found < 0 else after[: found + len(shown)]
    rest = after[len(header) :]
    return header + rest[: len(rest) - len(rest.lstrip())]


def _shared(one: str, two: str) -> str:
    """The beginning that two texts share."""
    differ = (place for place, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
    return one[: next(differ, min(len(one), len(two)))]


def _rendered(tokenizer: Tokenizer, data: DataSettings, *turns: dict[str, str], open_answer: bool = True) -> str:
    try:
        return render(tokenizer, turns, data, open_answer=open_answer)
    except ConfigError:  # some templates reject a system message, an open end, ...
        return ""
