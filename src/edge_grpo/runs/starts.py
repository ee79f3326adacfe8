"""The record of a run's starts: ``starts.jsonl``, one object per start or resumption; lines are only ever added."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_grpo.config.tree import changes
from edge_grpo.runs.durable import saving

__all__ = ["STARTS", "append", "other_environment", "read", "versions"]

STARTS = "starts.jsonl"


def append(run: Path, start: Mapping[str, Any]) -> None:
    """Add a start to the record of a run, and wait until it is on disk.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    file = run / STARTS
    with saving(file, run), file.open("a+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - 1))
        cut_off = opened.read(1) not in (b"", b"\n")  # by a kill: the line stays, and is skipped when read
        opened.write(b"\n" * cut_off + json.dumps(start, ensure_ascii=False).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())


def versions(run: Path) -> dict[str, str]:
    """The versions of Python and packages that a run was last started with; empty if there is no record."""
    found = read(run)
    return dict(found[-1].get("versions", {})) if found else {}


def read(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, the oldest first; damaged lines are skipped, and a run without a record has none."""
    try:
        lines = (run / STARTS).read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            start = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(start, dict):
            found.append(start)
    return found


def other_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed between two starts that may change how numbers are rounded, as text; empty if nothing did."""
    old, new = ({**_section(start, "versions"), **_processors(start)} for start in (before, now))
    known = {name: pair for name, pair in changes(old, new).items() if name in old}
    return "; ".join(f"{name} was {was}, now {is_now}" for name, (was, is_now) in known.items())


def _processors(start: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _section(start, "hardware").items() if name in ("cpu", "gpus")}


def _section(start: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = start.get(name)
    return found if isinstance(found, dict) else {}
