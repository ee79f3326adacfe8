"""What the processes of a job, their launcher and the user tell each other; imports no torch."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_grpo.base.ranks import RENDEZVOUS, own_rank

__all__ = ["RERUN", "Meeting", "next_command", "resume_command"]

RERUN: Final = "repeat the command to resume"
"""How to continue a command whose work is resumed by repeating it, for messages."""


@dataclass(frozen=True)
class Meeting:
    """The folder in which the processes of ``--processes`` meet, and leave word for each other and their launcher."""

    folder: Path

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Meeting | None":
        """That of this process; None if ``--processes`` did not start it."""
        return cls(Path(environment[RENDEZVOUS]).parent) if RENDEZVOUS in environment else None

    @property
    def rendezvous(self) -> Path:
        """The file by which the processes find each other."""
        return self.folder / "rendezvous"

    def claim(self) -> bool:
        """Whether this process is the first that wants to report an error."""
        try:
            (self.folder / "reported").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # the launcher is gone, and the folder with it
            return True
        return True

    @property
    def has_report(self) -> bool:
        """Whether a process has reported an error."""
        return (self.folder / "reported").exists()

    def name_run(self, folder: Path) -> None:
        """Tell the launcher which run this is; it cannot ask a process that was killed."""
        with suppress(OSError):
            (self.folder / "run").write_text(str(folder), encoding="utf-8")

    @property
    def run(self) -> Path | None:
        """The folder of the run, if a process has named it."""
        note = self.folder / "run"
        return Path(note.read_text(encoding="utf-8")) if note.exists() else None


def resume_command(folder: Path, *settings: str, environment: Mapping[str, str] = os.environ) -> str:
    """The command that resumes a run with as many processes as now.

    Example:
        >>> resume_command(Path("runs/a"), environment={})
        'edge-grpo train --resume runs/a'
        >>> job = {"RANK": "0", "WORLD_SIZE": "2"}
        >>> resume_command(Path("runs/a"), environment={**job, RENDEZVOUS: "/tmp/x"})
        'edge-grpo train --resume runs/a --processes 2'
        >>> resume_command(Path("runs/a"), "train.steps=9", environment=job)
        'torchrun ... -m edge_grpo train --resume runs/a train.steps=9'
    """
    words = " ".join(["train", "--resume", str(folder), *settings])
    if own_rank(environment) is None:
        return f"edge-grpo {words}"
    if RENDEZVOUS in environment:
        return f"edge-grpo {words} --processes {environment['WORLD_SIZE']}"
    return f"torchrun ... -m edge_grpo {words}"


def next_command(folder: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """What to do after a job ended early: resume its run, or start it again if there is none yet."""
    if folder is None or not (folder / "config.yaml").exists():
        return "nothing was saved yet; start it again"
    return f"resume with: {resume_command(folder, environment=environment)}"
