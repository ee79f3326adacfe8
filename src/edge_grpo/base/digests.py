"""Short digests: twelve hex digits of a SHA-256, enough to tell two configurations or files apart."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

__all__ = ["damaged_files", "digest", "digest_each", "digest_files", "sha256"]


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


def digest_each(items: Iterable[Any]) -> str:
    """Digest of a sequence of records or JSON values, taken one at a time.

    Empty fields of a record do not count, so that a field added later, empty by default, changes no digest; nor do
    those whose metadata say ``content=False``.
    """
    content = hashlib.sha256()
    for item in items:
        content.update(json.dumps(item, default=_plain).encode() + b"\n")
    return content.hexdigest()[:12]


def _plain(value: Any) -> Any:
    """What stands in for a value that JSON cannot represent; the same in every process."""
    if is_dataclass(value) and not isinstance(value, type):
        counted = [field.name for field in fields(value) if field.metadata.get("content", True)]
        own = {name: getattr(value, name) for name in counted}
        return {name: each for name, each in own.items() if each}
    if isinstance(value, bytes):
        return digest(value)
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


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
        return [name for digest, name in pairs if sha256(sums.with_name(name)) != digest] if pairs else [sums.name]
    except (OSError, ValueError):
        return [sums.name]


def sha256(file: Path) -> str:
    """The SHA-256 of a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
