"""Selecting data by pass rate: rates, bands of rates, and how many groups are expected to collapse."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem
from edge_grpo.base.text import lone_surrogate
from edge_grpo.data.messages import without_images
from edge_grpo.data.pictures import in_url, portable
from edge_grpo.data.problems import folder_of
from edge_grpo.data.readers import load_records, optional
from edge_grpo.data.rows import read_problem
from edge_grpo.data.settings import DataSettings, FieldNames
from edge_grpo.evaluation.answers import Answer
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.rewards.references import Found
from edge_grpo.runs.durable import write_whole

__all__ = ["Collapse", "Rate", "expected_collapse", "in_band", "load_rows", "parse_band", "rates", "write_rows"]

FIELD = "correctness_rate"
"""The column added to a row, named as in DeepScaleR-Hard-1K, the training set of the EDGE-GRPO paper."""


@dataclass(frozen=True)
class Rate:
    """A problem's scorable answers, counted by (reward, whether right)."""

    problem: str
    counts: Mapping[tuple[float, bool], int]

    @property
    def answers(self) -> int:
        """Number of answers."""
        return sum(self.counts.values())

    @property
    def right(self) -> int:
        """Number of right answers."""
        return sum(count for (_, right), count in self.counts.items() if right)

    @property
    def value(self) -> float:
        """The pass rate, 0 to 1."""
        return self.right / self.answers


@dataclass(frozen=True)
class Collapse:
    """Expected shares of groups of ``size`` answers whose rewards are all equal, so that advantages are 0.

    ``all_wrong`` and ``all_right`` are parts of ``total``; the rest have equal rewards for right and wrong answers.
    """

    size: int
    total: float
    all_wrong: float
    all_right: float


def parse_band(text: str) -> tuple[float, float]:
    """A band of pass rates, ends included.

    Raises:
        ConfigError: not of the form LOW:HIGH with 0 <= LOW <= HIGH <= 1.
    Example:
        >>> parse_band("0:0.125")
        (0.0, 0.125)
    """
    low, _, high = text.partition(":")
    try:
        band = float(low), float(high)
    except ValueError:
        band = (1.0, 0.0)
    if not 0 <= band[0] <= band[1] <= 1:
        raise ConfigError(f"--keep-rate: got {text!r}, wanted LOW:HIGH between 0 and 1, such as 0:0.125")
    return band


def load_rows(path: str, data: DataSettings) -> tuple[Benchmark, Mapping[str, Mapping[str, object]]]:
    """The problems of a data file, and each one's row as read, by problem id.

    Raises:
        DataError: the file is missing or unreadable, or a row is unusable and ``data.bad_rows`` is not ``skip``.
    """
    rows: dict[str, Mapping[str, object]] = {}
    read: Counter[Found] = Counter()

    def record(row: Mapping[str, object], name: str) -> Problem:
        problem, found = read_problem(
            row, data.fields, name, answer_pattern=data.answer_pattern, images=data.images, folder=folder_of(path)
        )
        read[found] += 1
        rows.setdefault(
            problem.id, _anywhere(row, problem, data.fields)
        )  # load_records rejects a later row with the same id
        return problem

    problems, skipped = load_records(
        path,
        record,
        split=data.split,
        split_setting="data.split",
        subset=data.subset,
        fields_setting="data.fields",
        id_field=data.fields.id,
        noun="problems",
        bad_rows=data.bad_rows,
    )
    return Benchmark(Path(path).stem, path, problems, skipped, read), rows


def _anywhere(row: Mapping[str, object], problem: Problem, names: FieldNames) -> Mapping[str, object]:
    """A row whose images can be read wherever it is: all in their column, by absolute paths or in ``data:`` URLs."""
    if not problem.images:
        return row
    return {
        **row,
        names.prompt: without_images(optional(row, names.prompt)),
        names.images: [*map(portable, problem.images)],
    }


def rates(answers: Sequence[Answer]) -> list[Rate]:
    """The scorable answers of every problem, counted, in order; problems without any are left out."""
    counts: dict[str, Counter[tuple[float, bool]]] = {}
    for answer in answers:
        if answer.scorable:
            counts.setdefault(answer.problem, Counter())[answer.reward, answer.correct] += 1
    return [Rate(problem, own) for problem, own in counts.items()]


def in_band(measured: Sequence[Rate], band: tuple[float, float]) -> list[Rate]:
    """The problems whose rate lies in the band, ends included."""
    return [rate for rate in measured if band[0] <= rate.value <= band[1]]


def expected_collapse(measured: Sequence[Rate], size: int) -> Collapse:
    r"""The share of groups of ``size`` answers to these problems expected to have all rewards equal.

    .. math:: \frac1P \sum_i \sum_v \binom{n_{iv}}{G} \Big/ \binom{n_i}{G}

    where :math:`n_{iv}` of the :math:`n_i` answers to problem i earn reward v. Unbiased unless the problems were
    selected by the same answers. Problems with fewer than ``size`` answers are left out; if none is left, all are NaN.

    Example:
        >>> expected_collapse([Rate("a", {(1.0, False): 8}), Rate("b", {(2.0, True): 4, (1.0, False): 4})], 2)
        Collapse(size=2, total=0.714..., all_wrong=0.607..., all_right=0.107...)
    """
    usable = [rate for rate in measured if rate.answers >= size]
    total = wrong = right = 0.0
    for rate in usable:
        groups = math.comb(rate.answers, size)
        by_reward: Counter[float] = Counter()
        for (reward, correct), count in rate.counts.items():
            by_reward[reward] += count
            share = math.comb(count, size) / groups
            right, wrong = (right + share, wrong) if correct else (right, wrong + share)
        total += sum(math.comb(count, size) for count in by_reward.values()) / groups
    parts = (part / len(usable) if usable else math.nan for part in (total, wrong, right))
    return Collapse(size, *parts)


def write_rows(path: Path, kept: Sequence[Rate], rows: Mapping[str, Mapping[str, object]]) -> None:
    """Write the rows of some problems as JSONL, each with its rate in ``correctness_rate``; atomic.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write_whole(path, "".join(_line({**rows[rate.problem], FIELD: rate.value}) for rate in kept))
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error.strerror})") from None


def _line(row: Mapping[str, object]) -> str:
    """A row as JSON; values that parquet has but JSON lacks, such as dates, become text, and bytes a ``data:`` URL."""
    line = json.dumps(row, ensure_ascii=False, default=_text)
    return (json.dumps(row, default=_text) if lone_surrogate(line) else line) + "\n"


def _text(value: object) -> str:
    return in_url(value) if isinstance(value, bytes) else str(value)
