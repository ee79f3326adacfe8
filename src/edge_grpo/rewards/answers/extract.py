r"""Find the answer in a completion: the content of its last ``\boxed{...}``."""

import re

__all__ = ["boxed_answer"]

COMMAND = r"\boxed"
BRACES = re.compile(r"[{}]")


def boxed_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}``, or None if the last ``\boxed`` has no balanced braces.

    Only the last ``\boxed`` counts: if it is unclosed, or followed by anything but ``{``, no earlier box replaces it,
    and ``\fbox`` is not a box. Braces are counted as characters, escaped or not. Takes time linear in the length of
    the text.

    Args:
        text: the completion.

    Returns:
        The content without its braces, possibly empty or surrounded by whitespace; None if nothing can be read.

    Source:
        The rule of the EDGE-GRPO and Dr. GRPO graders (Liu et al. 2025, arXiv:2503.20783), reimplemented.

    Example:
        >>> boxed_answer(r"First \boxed{4}, then \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> boxed_answer(r"\boxed{4} or rather \boxed 5") is None
        True
    """
    start = text.rfind(COMMAND)
    if start < 0 or not text.startswith("{", start + len(COMMAND)):
        return None
    start += len(COMMAND)
    depth = 0
    for brace in BRACES.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None
