"""Short digests: twelve hex digits of a SHA-256, enough to tell two configurations or files apart."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["damaged_files", "digest", "digest_files"]


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


def damaged_files(sums: Path) -> list[str]:
    """The files in a list made by ``sha256sum`` that do not have the bytes it says; the list itself if unreadable.

    Example:
        >>> damaged_files(Path("nowhere/SHA256SUMS"))
        ['SHA256SUMS']
    """
    try:
        pairs = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
        return [name for digest, name in pairs if _sha256(sums.with_name(name)) != digest] if pairs else [sums.name]
    except (OSError, ValueError):
        return [sums.name]


def _sha256(file: Path) -> str:
    """The SHA-256 of a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
