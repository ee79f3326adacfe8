r"""Find the answer in a completion: the content of its last ``\boxed{...}``."""

import re

__all__ = ["boxed_answer"]

BOX = re.compile(
    r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*(?:(\{)|([-+]?\s*\d+(?:[.,]\d+)*(?:\s*/\s*\d+)?|[A-Z](?![\w'])|\\pi(?![a-zA-Z])|"
    r"\\[dt]?frac\s*(?:\d\s*\d|\{[^{}]*\}\s*\{[^{}]*\})|\\sqrt\s*(?:\d|\{[^{}]*\})))"
)
BRACES = re.compile(r"[{}]")
NOTHING = re.compile(r"(?:\s|[{}$~]|\\[,;:! ]|\\(?:text|mathrm|textbf|mbox|quad|qquad)(?![a-zA-Z]))*")


def boxed_answer(text: str) -> str | None:
    r"""The content of the last box, or None if there is none, or the last one is unclosed or empty.

    A box is ``\boxed`` or ``\fbox``, followed by braces or, as TeX also allows, directly by a number, a fraction or a
    capital letter; a ``\boxed`` followed by anything else is prose about boxes. Braces are counted as characters,
    escaped or not. Takes time linear in the length of the text.

    Args:
        text: the completion.

    Returns:
        The content without its braces, perhaps with whitespace around it; None if nothing can be read.

    Source:
        The rule of the EDGE-GRPO and Dr. GRPO graders (Liu et al. 2025, arXiv:2503.20783), which accept only
        ``\boxed{``, and accept an empty one.

    Example:
        >>> boxed_answer(r"First \boxed{4}, then \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> boxed_answer(r"\boxed{4} or rather \boxed 5"), boxed_answer(r"\boxed{4} or \boxed{ }") is None
        ('5', True)
    """
    last = None
    for last in BOX.finditer(text):  # noqa: B007  (the last match is what is wanted)
        pass
    if last is None:
        return None
    content = last[2] if last[2] is not None else _in_braces(text, last.end() - 1)
    return None if content is None or NOTHING.fullmatch(content) else content


def _in_braces(text: str, start: int) -> str | None:
    depth = 0
    for brace in BRACES.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None
