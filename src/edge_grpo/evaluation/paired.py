"""Two models on the same problems: how much better one is, problem by problem, with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.config.tree import changes
from edge_grpo.evaluation.answers import Answer
from edge_grpo.evaluation.intervals import combined, difference_interval
from edge_grpo.evaluation.scores import AVERAGES, parts_of, values_of, weights_of

__all__ = ["Difference", "Paired", "check_alike", "compare"]


@dataclass(frozen=True)
class Difference:
    """The mean of B's value minus A's over problems, its 95% interval, and on how many problems either is ahead."""

    a: float
    b: float
    value: float
    low: float
    high: float
    problems: int
    a_ahead: int
    b_ahead: int


@dataclass(frozen=True)
class Paired:
    """Benchmark or average -> metric -> difference; ``num_unpaired`` problems have answers from one model only."""

    differences: dict[str, dict[str, Difference]]
    num_problems: int
    num_unpaired: int


def compare(answers_a: Sequence[Answer], answers_b: Sequence[Answer]) -> Paired:
    r"""The paired difference of every metric both models have, per benchmark and on average.

    .. math:: \bar d = \sum_b w_b \frac{1}{n_b} \sum_{i \in b} (v_i^B - v_i^A)

    with a 95 % interval over problems (see :func:`edge_grpo.evaluation.intervals.difference_interval`), combined over
    the benchmarks. Pairing cancels problem difficulty, so the interval is narrower than those of the two means
    suggest.

    Args:
        answers_a: one model's.
        answers_b: the other's.

    Raises:
        DataError: no problem has the same prompt, images and reference answers in both, or they share no metric.
    """
    named_a, named_b = (
        {(one.benchmark, one.problem): (one.prompt, one.images, one.gold) for one in some}
        for some in (answers_a, answers_b)
    )
    common = {name for name, asked in named_a.items() if named_b.get(name) == asked}
    if not common:
        raise DataError("compare-models: the two have no problems in common; evaluate both on the same suite")
    values_a, values_b = (
        values_of([one for one in some if (one.benchmark, one.problem) in common]) for some in (answers_a, answers_b)
    )
    benchmarks = list(dict.fromkeys(one.benchmark for one in answers_a if (one.benchmark, one.problem) in common))
    rows = [*benchmarks, *(AVERAGES if len(benchmarks) > 1 else ())]
    found: dict[str, dict[str, Difference]] = {row: {} for row in rows}
    for metric in (metric for metric in values_a if metric in values_b):
        a, b = values_a[metric], values_b[metric]
        both = [name for name in a if name in b]
        for row in rows:
            counted = benchmarks if row in AVERAGES else [row]
            parts = [parts_of({name: own[name] for name in both}, counted) for own in (a, b)]
            if parts[0]:
                found[row][metric] = _difference(*parts, macro=row == "macro")
    if not any(found.values()):
        raise DataError("compare-models: the two have no metric in common; evaluate both with the same --samples")
    num_all = len(named_a.keys() | named_b.keys())
    return Paired(found, len(common), num_all - len(common))


def check_alike(identity_a: Mapping[str, Any], identity_b: Mapping[str, Any]) -> None:
    """Reject two evaluations that were run differently; their models and sets of problems may differ.

    Raises:
        ConfigError: they were; names the differing settings.
    """
    kept = ("edge_grpo", "data", "reward", "rollout", "eval")
    one, two = ({name: identity.get(name) for name in kept} for identity in (identity_a, identity_b))
    if different := changes(one, two):
        named = "; ".join(f"{name} is {a!r} and {b!r}" for name, (a, b) in list(different.items())[:3])
        raise ConfigError(f"compare-models: the two were evaluated differently ({named}); evaluate one of them again")


def _difference(a: list[list[float]], b: list[list[float]], *, macro: bool) -> Difference:
    """From each benchmark's values, in the same order for both models."""
    weights = weights_of(a, macro=macro)
    mean_a, mean_b = (
        sum(w * sum(part) / len(part) for w, part in zip(weights, parts, strict=True)) for parts in (a, b)
    )
    changes = [[two - one for one, two in zip(*pair, strict=True)] for pair in zip(a, b, strict=True)]
    means = [sum(part) / len(part) for part in changes]
    low, high = combined(means, list(map(difference_interval, changes)), weights)
    flat = [change for part in changes for change in part]
    return Difference(
        a=mean_a,
        b=mean_b,
        value=mean_b - mean_a,
        low=low,
        high=high,
        problems=len(flat),
        a_ahead=sum(change < 0 for change in flat),
        b_ahead=sum(change > 0 for change in flat),
    )
