"""Checks any text must pass before it reaches a tokenizer or a file, lists written as text, counts with their nouns."""

import ast
import json
import unicodedata
from contextlib import suppress

__all__ = ["counted", "listed_in_text", "lone_surrogate", "printable"]


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


def printable(text: str) -> str:
    r"""Text without characters that control a terminal: each is shown by its code; tabs and line breaks stay.

    Example:
        >>> printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    kept = (char if char in "\t\n" or not unicodedata.category(char).startswith("C") else _code(char) for char in text)
    return "".join(kept)


def _code(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def lone_surrogate(text: str) -> str:
    """Describe the first lone surrogate in a text, which no tokenizer or file accepts; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(text[error.start]):04x}"
        return f"lone surrogate {surrogate} at position {error.start}, wanted valid Unicode text"
    return ""
