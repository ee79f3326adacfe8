"""Short digests: twelve hex digits of a SHA-256, enough to tell two configurations or files apart."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["digest", "digest_files"]


def digest(content: Any) -> str:
    """Digest of bytes, text or any value JSON can represent (``str`` stands in for what it cannot).

    Returns:
        twelve hex digits, the same on every machine.
    Example:
        >>> digest("abc") == digest(b"abc"), digest([1, 2]) == digest([2, 1])
        (True, False)
    """
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content, default=str)).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def digest_files(files: Iterable[Path]) -> str:
    """Digest of the names and contents of files, independent of their order."""
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.name.encode())
        with file.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()[:12]
