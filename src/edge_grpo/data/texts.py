"""What any text must be before a tokenizer or a file sees it."""

__all__ = ["half_character"]


def half_character(text: str) -> str:
    """What is wrong with a text that holds lone surrogates, which no tokenizer and no file takes; else nothing."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        return f"half a character ({half}) at position {error.start}, wanted whole Unicode text"
    return ""
