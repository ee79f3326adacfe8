"""Prompts as rows have them: text, or a conversation, a list of messages that ends with the user's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_grpo.data.pictures import PLACEHOLDER
from edge_grpo.data.readers import BadRowError, described, is_text

__all__ = ["Conversation", "Turns", "conversation", "listed", "non_empty", "read_messages", "read_prompt"]

Turns = tuple[tuple[str, str], ...]  # (role, text)

_IMAGES: Final = ("image", "image_url")  # types of parts
_IMAGE_KEYS: Final = ("image", "image_url", "path", "url", "bytes")


@dataclass(frozen=True)
class Conversation:
    """A prompt: the user's last turn, the turns before it (user and assistant in turn), and the row's system message.

    ``as_messages``: the row held messages, not text. ``images``: those that the messages hold themselves, as they are
    there; in the text, each has a placeholder.
    """

    prompt: str
    earlier: tuple[str, ...] = ()
    system: str = ""
    as_messages: bool = False
    images: tuple[object, ...] = ()


def read_prompt(value: object, name: str) -> Conversation:
    """The prompt in field ``name``: text, messages, or messages as JSON text.

    Raises:
        BadRowError: it is neither, or not a conversation that the model can continue.
    """
    found = listed(value)
    if found is None:
        return Conversation(non_empty(value, name, "text or a list of messages"))
    images: list[object] = []
    return replace(conversation(read_messages(found, name, images), name), images=tuple(images))


def conversation(turns: Turns, name: str) -> Conversation:
    """The turns of field ``name`` as a prompt.

    Raises:
        BadRowError: after an optional system message, users and assistants do not alternate, or the last turn is not
            the user's.
    """
    system, *rest = turns if turns[0][0] == "system" else (("system", ""), *turns)
    roles = [role for role, _ in rest]
    if not rest or roles != ["user", "assistant"] * (len(rest) // 2) + ["user"]:
        found = ", ".join(role for role, _ in turns)
        wanted = "wanted alternating user and assistant, user first and last"
        prefill = " (an answer begun for the model is not supported)" if roles[-1:] == ["assistant"] else ""
        raise BadRowError(f"field '{name}': the prompt's messages have roles {found}; {wanted}{prefill}")
    *earlier, prompt = (text for _, text in rest)
    return Conversation(prompt, tuple(earlier), system[1], as_messages=True)


def read_messages(value: Sequence[object], name: str, images: list[object] | None = None) -> Turns:
    """The messages in field ``name``.

    Args:
        value: the messages.
        name: the field.
        images: takes the images that stand in the messages themselves; None = only text is allowed.
    Raises:
        BadRowError: there are none, or one is not an object with a role and text.
    """
    if not value:
        raise BadRowError(f"field '{name}': an empty list, wanted messages")
    turns = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise BadRowError(f"field '{name}', message {number}: {described(message)}, wanted an object")
        role, content = (message.get(key) for key in ("role", "content"))
        if not is_text(role, name):
            raise BadRowError(f"field '{name}', message {number}, role: {described(role)}, wanted text")
        where = f"{name}', message {number}, 'content"
        turns.append((role, non_empty(_content(content, where, images), where, "text")))
    return tuple(turns)


def non_empty(value: object, name: str, wanted: str) -> str:
    """The text of field ``name``. Raises ``BadRowError`` if it is not text, or blank."""
    if not is_text(value, name) or not value.strip():
        raise BadRowError(f"field '{name}': {described(value)}, wanted {wanted}")
    return value


def listed(value: object) -> Sequence[object] | None:
    """A list of messages; None for anything else. JSON text, and the columns of messages side by side, become one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return None
        is_messages = isinstance(parsed, list) and all(isinstance(one, dict) and "role" in one for one in parsed)
        return parsed if is_messages and parsed else None
    if isinstance(value, Mapping):  # {"role": [...], "content": [...]}: how older versions of `datasets` store a list
        roles, contents = value.get("role"), value.get("content")
        if isinstance(roles, list) and isinstance(contents, list) and len(roles) == len(contents):
            return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return value if isinstance(value, list | tuple) else None


def without_images(prompt: object) -> object:
    """A prompt whose messages only say where images stand; the images are in their column then."""

    def part(one: object) -> object:
        kind = one.get("type") if isinstance(one, Mapping) else None
        return {"type": "image"} if kind in _IMAGES else one

    def message(one: object) -> object:
        content = one.get("content") if isinstance(one, Mapping) else None
        return {**one, "content": [*map(part, content)]} if isinstance(content, list | tuple) else one  # type: ignore[dict-item]

    messages = listed(prompt)
    return prompt if messages is None else [*map(message, messages)]


def _content(value: object, where: str, images: list[object] | None) -> object:
    """A message's content; parts are joined, with a placeholder for each image."""
    if not isinstance(value, list | tuple):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and images is not None and kind in _IMAGES:
            own = next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)
            images += [] if own is None else [own]  # otherwise it is in the column of images
            texts.append(PLACEHOLDER)
            continue
        if not isinstance(part, Mapping) or kind not in ("text", None):
            shown = f"a part of type {kind!r}" if kind else described(part)
            wanted = "only text" if images is None else "text and images"
            raise BadRowError(f"field '{where}': contains {shown}, wanted {wanted}")
        texts.append(non_empty(part.get("text"), where, "text in every part"))
    return "".join(texts)
