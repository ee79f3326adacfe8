"""Checks any text must pass before it reaches a tokenizer or a file."""

__all__ = ["lone_surrogate"]


def lone_surrogate(text: str) -> str:
    """Describe the first lone surrogate in a text, which no tokenizer or file accepts; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(text[error.start]):04x}"
        return f"lone surrogate {surrogate} at position {error.start}, wanted valid Unicode text"
    return ""
