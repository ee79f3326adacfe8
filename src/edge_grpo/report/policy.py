"""What a content security policy calls a script or a style sheet that a page may use."""

import base64
import hashlib

__all__ = ["digest"]


def digest(text: str) -> str:
    """The source expression that allows exactly this text.

    Source: Content Security Policy Level 3, W3C, section 2.3.1 (hash-source).
    Example:
        >>> digest("")
        'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
