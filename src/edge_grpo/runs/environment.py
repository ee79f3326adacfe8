"""What a process runs on and with: command line, versions, hardware and the commit of the working directory."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import edge_grpo
from edge_grpo.base.cores import num_cores

__all__ = ["environment", "git_state"]

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "datasets", "numpy", "safetensors", "math-verify")
_GIT_SECONDS = 2.0


def environment() -> dict[str, Any]:
    """The command line, and where it runs, as JSON values. Environment variables are left out: they hold secrets."""
    return {
        "command": list(sys.argv),
        "directory": os.getcwd(),
        "git": git_state(Path.cwd()),
        "versions": _versions(),
        "hardware": _hardware(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out around a folder, and whether tracked files differ from it.

    None if it is in no repository, and ``dirty`` None if git does not answer in time.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    """What a git command prints; None if it fails. No program named in the repository's configuration is run."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *words]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603 - fixed words
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _versions() -> dict[str, str]:
    found = {"edge-grpo": edge_grpo.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _hardware() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _cpu_name() -> str:
    """The processor's model name; on systems that do not give it, its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
