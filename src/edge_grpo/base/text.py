"""Text: what any must pass before it reaches a tokenizer or a file, and what people are shown."""

import ast
import json
import re
from contextlib import suppress
from typing import Final

__all__ = ["counted", "listed_in_text", "lone_surrogate", "on_one_line", "visible"]

_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is 1.

    Example:
        >>> counted(1, "step"), counted(1536, "problem"), counted(2, "process")
        ('1 step', '1,536 problems', '2 processes')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed_in_text(text: str) -> object:
    """A list written as JSON or in Python's notation, as CSV files have it; the text itself if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found: object = parse(text.strip())
            return found
    return text


def lone_surrogate(text: str) -> str:
    """Describe the first lone surrogate in a text, which no tokenizer or file accepts; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(text[error.start]):04x}"
        return f"lone surrogate {surrogate} at position {error.start}, wanted valid Unicode text"
    return ""


def visible(text: str) -> str:
    r"""A text in which nothing is hidden: control characters, and those that change the direction of text, as codes.

    Line breaks and tabs stay.

    Example:
        >>> visible("a\x1b[2Jb\u202ec")
        'a[U+001B][2Jb[U+202E]c'
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def on_one_line(text: str, most: int = 0) -> str:
    r"""Foreign text, fit for a terminal: on one line, nothing hidden in it, at most ``most`` characters if set.

    Example:
        >>> print(on_one_line("one\n two \x1b[31m", 12))
        one two [U+…
    """
    line = visible(" ".join(text.split()))
    return f"{line[: most - 1]}…" if most and len(line) > most else line
