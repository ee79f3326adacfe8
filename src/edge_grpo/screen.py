"""Choosing data by how often a model solves it: pass rates, a band of them, and the collapse that groups would show."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_grpo.answers import Answer
from edge_grpo.data.problems import DataSettings, read_problem
from edge_grpo.data.rows import load_records
from edge_grpo.disk import write_whole
from edge_grpo.errors import ConfigError
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.records import Problem
from edge_grpo.suite import Benchmark

__all__ = ["Collapse", "Rate", "expected_collapse", "in_band", "load_rows", "parse_band", "rates", "write_rows"]

FIELD = "correctness_rate"
"""The column that is added to a row: the name that DeepScaleR-Hard-1K, the training set of the EDGE-GRPO paper, has."""


@dataclass(frozen=True)
class Rate:
    """How many of a problem's scorable answers are right."""

    problem: str
    right: int
    answers: int

    @property
    def value(self) -> float:
        """The pass rate, 0 to 1."""
        return self.right / self.answers


@dataclass(frozen=True)
class Collapse:
    """Shares of groups of ``size`` answers that are expected to be all wrong and all right: their advantages are 0."""

    size: int
    all_wrong: float
    all_right: float

    @property
    def total(self) -> float:
        """Share of collapsed groups."""
        return self.all_wrong + self.all_right


def parse_band(text: str) -> tuple[float, float]:
    """A band of pass rates, both ends in it.

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
        raise ConfigError(f"--keep-rate: came {text!r}, wanted LOW:HIGH between 0 and 1, such as 0:0.125")
    return band


def load_rows(path: str, data: DataSettings) -> tuple[Benchmark, Mapping[str, Mapping[str, object]]]:
    """The problems of a data file, and the row of each as it stands there, by the problem's id.

    Raises:
        DataError: nothing there, not readable, or, unless ``data.bad_rows`` is ``skip``, an unusable row.
    """
    rows: dict[str, Mapping[str, object]] = {}

    def record(row: Mapping[str, object], name: str) -> Problem:
        problem = read_problem(row, data.fields, name)
        rows[problem.id] = row
        return problem

    problems, skipped = load_records(
        path,
        record,
        split=data.split,
        split_setting="data.split",
        fields_setting="data.fields",
        id_field=data.fields.id,
        noun="problems",
        bad_rows=data.bad_rows,
    )
    return Benchmark(Path(path).stem, path, problems, skipped), rows


def rates(answers: Sequence[Answer]) -> list[Rate]:
    """The pass rate of every problem with a scorable answer, in order."""
    asked, right = Counter[str](), Counter[str]()
    for answer in answers:
        if answer.scorable:
            asked[answer.problem] += 1
            right[answer.problem] += answer.correct
    return [Rate(problem, right[problem], count) for problem, count in asked.items()]


def in_band(measured: Sequence[Rate], band: tuple[float, float]) -> list[Rate]:
    """Those whose rate lies in the band, its ends included."""
    return [rate for rate in measured if band[0] <= rate.value <= band[1]]


def expected_collapse(measured: Sequence[Rate], size: int) -> Collapse:
    r"""How many groups of ``size`` answers to these problems would have all rewards equal, wrong or right.

    .. math:: \frac1P \sum_i \binom{n_i - c_i}{G} \Big/ \binom{n_i}{G}, \qquad
        \frac1P \sum_i \binom{c_i}{G} \Big/ \binom{n_i}{G}

    without bias for problems that were not chosen by the same answers. Problems with fewer than ``size`` answers are
    left out.

    Example:
        >>> expected_collapse([Rate("a", 0, 8), Rate("b", 4, 8)], 2)
        Collapse(size=2, all_wrong=0.607..., all_right=0.107...)
    """
    usable = [rate for rate in measured if rate.answers >= size]
    count = max(1, len(usable))
    wrong = sum(1.0 - pass_at_k(rate.answers, rate.right, size) for rate in usable)
    right = sum(1.0 - pass_at_k(rate.answers, rate.answers - rate.right, size) for rate in usable)
    return Collapse(size, wrong / count, right / count)


def write_rows(path: Path, kept: Sequence[Rate], rows: Mapping[str, Mapping[str, object]]) -> None:
    """Write the rows of some problems as JSONL, each with its rate in ``correctness_rate``; whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    marked = ({**rows[rate.problem], FIELD: rate.value} for rate in kept)
    try:
        # Dates and the like, which parquet has and JSON has not, become text.
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in marked))
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error.strerror})") from None
