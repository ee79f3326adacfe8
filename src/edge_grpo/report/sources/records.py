"""What every format is read into: one record per completion, and what was found out while reading."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Completion", "Found", "Ledger", "Rollouts"]


class Completion(NamedTuple):
    """One completion as it was sampled; a tuple, because files hold millions of them.

    ``group`` numbers the groups of all files; ``prompt`` recognizes the question wherever it comes up. ``reward``
    (reward units) is None if it could not be scored; ``correct``, ``tokens``, ``characters`` and ``advantage`` are None
    where the file does not say. ``text`` is a hash of the completion, equal for equal texts within one reading.
    """

    step: int | None
    group: int
    prompt: str
    reward: float | None
    correct: bool | None = None
    tokens: int | None = None
    characters: int | None = None
    text: int | None = None
    advantage: float | None = None


class Found(NamedTuple):
    """What a column serves as, its name, and how it was found: ``given`` by an option, ``guessed``, or a format's."""

    role: str
    column: str
    how: str

    def __str__(self) -> str:
        return f"{self.role}: column '{self.column}' ({self.how})"


@dataclass(frozen=True)
class Rollouts:
    """The completions of a file or folder, and what should be said about the reading.

    ``name`` is the format's; ``notes`` are sentences for the reader: what was left out, assumed or doubtful.
    """

    name: str
    files: int
    columns: Sequence[Found]
    notes: Sequence[str]
    completions: Sequence[Completion]


@dataclass
class Ledger:
    """Counts what is left out or doubtful while files are read."""

    bad_lines: int = 0
    first_bad: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def bad_line(self, where: str, why: str) -> None:
        """A line that cannot be read."""
        self.bad_lines += 1
        self.first_bad = self.first_bad or f"{where}: {why}"

    def add_lines(self, other: "Ledger") -> None:
        """The unreadable lines of another ledger, too."""
        self.bad_lines += other.bad_lines
        self.first_bad = self.first_bad or other.first_bad

    def sentences(self) -> list[str]:
        """The notes, with the counts written out."""
        bad = f"unreadable lines left out: {self.bad_lines:,}, the first: {self.first_bad}"
        counted = [f"{what}: {count:,}" for what, count in self.counts.items() if count]
        return ([bad] if self.bad_lines else []) + counted + self.notes
