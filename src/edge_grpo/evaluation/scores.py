"""Scores from graded answers: pass@1, pass@k, avg@k and maj@k, each with an interval over problems."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_grpo.base.records import Verdict
from edge_grpo.evaluation.answers import GREEDY, SAMPLED, Answer
from edge_grpo.evaluation.intervals import combined, mean_interval
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.rewards.answers.canonical import value_spelling
from edge_grpo.rewards.answers.rational import rational

__all__ = [
    "AVERAGES",
    "Score",
    "Values",
    "averages",
    "majority",
    "parts_of",
    "pass_sizes",
    "scores_of",
    "values_of",
    "weights_of",
]

AVERAGES = ("problem-weighted", "macro")
_LONG = 500  # characters; longer answers vote verbatim

Name = tuple[str, str]
Values = Mapping[str, Mapping[Name, float]]
"""Metric -> (benchmark, problem) -> a number in [0, 1]; problems that could not be scored are missing."""


@dataclass(frozen=True)
class Score:
    """A mean over problems with its 95% interval."""

    value: float
    low: float
    high: float
    problems: int


def values_of(answers: Iterable[Answer]) -> dict[str, dict[Name, float]]:
    r"""Every metric of every problem.

    ``pass@1/greedy`` is whether the greedy answer is right, 0 or 1. ``avg@k`` and ``pass@1/sampled`` are the share of
    the k samples that are right; ``pass@2, pass@4, ...`` are unbiased estimates from the same samples; ``maj@k`` is
    whether the most common answer is right (see :func:`majority`).

    Args:
        answers: from any benchmarks; those on which the grader failed are excluded, and a problem left with fewer
            than j samples has no pass@j.

    Returns:
        metric -> (benchmark, problem) -> value, in the order of the answers.
    """
    problems: dict[Name, list[Answer]] = {}
    most = 0
    for answer in answers:
        problems.setdefault((answer.benchmark, answer.problem), []).append(answer)
        most = max(most, answer.number + 1 if answer.decoding == SAMPLED else 0)
    sizes = pass_sizes(most)
    names = ("pass@1/sampled", f"avg@{most}", *(f"pass@{k}" for k in sizes), f"maj@{most}") if most else ()
    found: dict[str, dict[Name, float]] = {name: {} for name in ("pass@1/greedy", *names)}
    for name, own in problems.items():
        scorable = [answer for answer in own if answer.scorable]
        greedy = [answer for answer in scorable if answer.decoding == GREEDY]
        drawn = [answer for answer in scorable if answer.decoding == SAMPLED]
        if greedy:
            found["pass@1/greedy"][name] = float(greedy[0].correct)
        if drawn:
            right = sum(answer.correct for answer in drawn)
            found["pass@1/sampled"][name] = found[f"avg@{most}"][name] = right / len(drawn)
            found[f"maj@{most}"][name] = majority(drawn)
            for k in sizes:
                if k <= len(drawn):
                    found[f"pass@{k}"][name] = pass_at_k(len(drawn), right, k)
    return {metric: values for metric, values in found.items() if values}


def pass_sizes(samples: int) -> list[int]:
    """The k of the reported pass@k: powers of two up to the number of samples, and that number.

    Example:
        >>> pass_sizes(6), pass_sizes(1)
        ([2, 4, 6], [])
    """
    return sorted({2**j for j in range(1, samples.bit_length())} | ({samples} if samples > 1 else set()))


def majority(answers: Sequence[Answer]) -> float:
    r"""Whether the most common answer is right: 0 or 1, or in between if several tie.

    Samples vote with the content of their last box: plain numbers count as one answer if they are equal, other answers
    if they share a :func:`edge_grpo.rewards.answers.canonical.value_spelling`. A sample without a box, or with an empty
    one, does not vote. The value is the chance of being right if ties are broken at random and the answer is judged by
    a random sample that gave it (which matters if it was graded both ways). Without votes it is 0.

    Source: self-consistency, Wang et al. 2022, arXiv:2203.11171; how ties are broken is ours.
    """
    classes: dict[object, list[bool]] = {}
    for answer in answers:
        if answer.answer is not None and answer.answer.strip():
            classes.setdefault(_vote(answer.answer.strip()), []).append(answer.correct)
    if not classes:
        return 0.0
    most = max(map(len, classes.values()))
    leading = [sum(flags) / most for flags in classes.values() if len(flags) == most]
    return sum(leading) / len(leading)


def _vote(answer: str) -> object:
    """A key that is equal for answers that count as one."""
    if len(answer) > _LONG:
        return answer
    spelled = value_spelling(answer)
    number = rational(spelled)
    return (spelled or answer) if number is None else number


def parts_of(values: Mapping[Name, float], benchmarks: Sequence[str]) -> list[list[float]]:
    """The values of each benchmark that has any."""
    parts = ([value for (name, _), value in values.items() if name == wanted] for wanted in benchmarks)
    return [part for part in parts if part]


def _score_benchmark(values: Values, benchmark: str) -> dict[str, Score]:
    """Every metric of one benchmark, with its interval over problems."""
    scores = {}
    for metric, own in values.items():
        (part,) = parts_of(own, [benchmark]) or [[]]
        if part:
            scores[metric] = Score(sum(part) / len(part), *mean_interval(part), len(part))
    return scores


def averages(values: Values, benchmarks: Sequence[str]) -> dict[str, dict[str, Score]]:
    r"""Every metric averaged over all problems equally, and as the mean of the benchmark means (macro).

    The intervals are combined from those of the benchmarks. (The EDGE-GRPO paper's "Avg" is problem-weighted.)
    """
    found: dict[str, dict[str, Score]] = {name: {} for name in AVERAGES}
    for metric, own in values.items():
        parts = parts_of(own, benchmarks)
        count, means = sum(map(len, parts)), [sum(part) / len(part) for part in parts]
        intervals = list(map(mean_interval, parts))
        for name in AVERAGES:
            weights = weights_of(parts, macro=name == "macro")
            value = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
            found[name][metric] = Score(value, *combined(means, intervals, weights), count)
    return found


def weights_of(parts: Sequence[Sequence[float]], *, macro: bool) -> list[float]:
    """The weight of each benchmark's mean in an average: equal (macro), or by its number of problems."""
    count = sum(map(len, parts))
    return [1 / len(parts) if macro else len(part) / count for part in parts]


def scores_of(
    answers: Sequence[Answer], benchmarks: Sequence[str], *, without: Collection[Name] = ()
) -> dict[str, Any]:
    """All scores of an evaluation as plain values for JSON.

    Args:
        answers: from all benchmarks.
        benchmarks: their names, in order.
        without: (benchmark, problem) of problems to leave out.

    Returns:
        ``benchmarks``: name -> ``problems``, ``scores`` (metric -> value, low, high, problems) and the ``greedy`` and
        ``sampled`` entries of :func:`describe`; ``averages``: likewise, if there are several benchmarks.
    """
    counted = [answer for answer in answers if (answer.benchmark, answer.problem) not in without]
    values = values_of(counted)
    found: dict[str, Any] = {"benchmarks": {}}
    for name in benchmarks:
        own = [answer for answer in counted if answer.benchmark == name]
        found["benchmarks"][name] = {
            "problems": len({answer.problem for answer in own}),
            "scores": {metric: asdict(score) for metric, score in _score_benchmark(values, name).items()},
            **describe(own),
        }
    if len(benchmarks) > 1:
        found["averages"] = {
            name: {
                "problems": len({(answer.benchmark, answer.problem) for answer in counted}),
                "scores": {metric: asdict(score) for metric, score in scores.items()},
                **(describe(counted) if name == "problem-weighted" else {}),
            }
            for name, scores in averages(values, benchmarks).items()
        }
    return found


def describe(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """By decoding: mean ``entropy`` (nats per token; None = unknown), ``length``, ``truncated``, and ``verdicts``.

    ``length`` is in tokens, ``truncated`` a share.
    """
    found = {}
    for decoding in (GREEDY, SAMPLED):
        own = [answer for answer in answers if answer.decoding == decoding]
        if own:
            tokens = sum(answer.tokens for answer in own)
            known = [(answer.entropy, answer.tokens) for answer in own if answer.entropy is not None]
            verdicts = Counter(answer.verdict for answer in own)
            found[decoding] = {
                "answers": len(own),
                "entropy": sum(mean * count for mean, count in known) / sum(count for _, count in known)
                if known
                else None,
                "length": tokens / len(own),
                "truncated": sum(not answer.finished for answer in own) / len(own),
                "verdicts": {str(verdict): verdicts[verdict] for verdict in Verdict if verdicts[verdict]},
            }
    return found
