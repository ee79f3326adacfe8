"""Texts split outside their brackets and quotes, in linear time."""

import re

__all__ = ["outer_brackets", "pieces_of", "split_top"]

WORD_SEPARATOR = (
    r'\s*,?\s*"\s*,?\s*(?:and|or)\s*,?\s*"\s*|\s*,?\s+(?:and|or)\s+|\s*\\(?:land|lor|wedge|vee)(?![a-zA-Z])\s*'
)
SEPARATOR = re.compile(rf"{WORD_SEPARATOR}|\s*[,;]\s*(?:\s*(?:and|or)\s+)?")
COMMA = re.compile(r"\s*[,;]\s*")
BRACKET = re.compile(r'\\[{}]|\\(?:langle|rangle|lfloor|rfloor|lceil|rceil|begin|end)(?![a-zA-Z])|[()\[\]{}"]')
OPENING = {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"}


def split_top(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts between separators that are outside all brackets, and the separators.

    Example:
        >>> split_top("1,f(2,3)", re.compile(","))
        (['1', 'f(2,3)'], [','])
    """
    parts, found = [], []
    depth, start, quoted = 0, 0, False
    position = 0
    while position < len(text):
        match = separator.match(text, position) if depth == 0 and not quoted else None
        if match and match.end() > position:
            parts.append(text[start:position])
            found.append(match[0])
            position = start = match.end()
            continue
        if match := BRACKET.match(text, position):
            if match[0] == '"':
                quoted = not quoted
            elif not quoted:
                depth = max(depth + (1 if match[0] in OPENING else -1), 0)
            position = match.end()
        else:
            position += 1
    return [*parts, text[start:]], found


def pieces_of(text: str, *, words: bool = True) -> list[str]:
    """The elements of a list, separated by commas, semicolons and, with ``words``, by "and" and "or".

    Example:
        >>> pieces_of("17, 34 and 80"), pieces_of("(1,2); 3")
        (['17', '34', '80'], ['(1,2)', '3'])
    """
    parts, _ = split_top(text, SEPARATOR if words else COMMA)
    return parts


def outer_brackets(text: str, opening: str, closing: str) -> str | None:
    """What is inside, if this pair of brackets encloses the whole text.

    Example:
        >>> outer_brackets("(1,2]", "(", "]"), outer_brackets("(1)(2)", "(", ")") is None
        ('1,2', True)
    """
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if opening == "{" and inner.endswith("\\"):
        return None
    depth = 0
    for match in BRACKET.finditer(inner):
        if match[0] != '"':
            depth += 1 if match[0] in OPENING else -1
        if depth < 0:
            return None
    return inner if depth == 0 else None
