"""What came out of runs, in a few figures: each arm's mean, and its paired difference from the first arm."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from edge_grpo.base.records import Verdict
from edge_grpo.evaluation.intervals import t_interval
from edge_grpo.report.arms import Arm
from edge_grpo.report.figures import PHASES, entropy_gaps
from edge_grpo.report.groups import DEAD, Kind
from edge_grpo.report.run import Drawn, Run

__all__ = ["DeadProblem", "Estimate", "Outcome", "dead_prompts", "outcomes", "shown"]

_Read = Callable[[Run], float | None]
_LAST = 0.1  # the share of steps at the end that speaks for a run


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` seeds with its 95% interval, which is NaN for a single one."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Outcome:
    """One figure of every arm.

    ``differences`` are those of the second and later arms from the first, over pairs of runs with equal seeds; None
    where no run has a partner. ``form`` is ``share``, ``number`` or ``time`` (seconds).
    """

    title: str
    form: str
    means: Sequence[Estimate | None]
    differences: Sequence[Estimate | None]

    def cells(self) -> list[str]:
        """The means and then the differences as text; empty where there is nothing to show."""
        known = self.means[0] is not None
        changes = [
            shown(change, self.form, signed=True) + (" (one pair)" if change.count == 1 else "")
            if change
            else "no pair"
            if known and mean
            else ""
            for change, mean in zip(self.differences, self.means[1:], strict=True)
        ]
        return [*(shown(mean, self.form) for mean in self.means), *changes]


@dataclass(frozen=True)
class DeadProblem:
    """A problem that never gave a group with a signal: how often it was sampled, the kinds it gave, and when last."""

    problem: str
    seen: int
    kinds: Mapping[Kind, int]
    last_step: int


def outcomes(arms: Sequence[Arm]) -> list[Outcome]:
    """The figures that at least one run has, without kinds of groups that do not occur.

    The first arm is what the others are compared with.
    """
    found = []
    for title, (form, read) in _figures(arms).items():
        values = [[read(run) for run in arm.runs] for arm in arms]
        known = [value for own in values for value in own if value is not None]
        if any(known) or (known and title not in _RARE):
            changes = [_paired(arms[0], arm, values[0], own) for arm, own in zip(arms[1:], values[1:], strict=True)]
            limits = (0.0, 1.0) if form == "share" else (-math.inf, math.inf)
            means = [_estimate(own, *limits) for own in values]
            found.append(Outcome(title, form, means, changes))
    return found


def dead_prompts(run: Run) -> list[DeadProblem]:
    """The problems whose every sampled group was without a signal, the most frequently sampled first."""
    groups: dict[str, list[Drawn]] = defaultdict(list)
    for group in run.drawn:
        if group.layer == 1:
            groups[group.problem].append(group)
    found = [
        DeadProblem(problem, len(own), Counter(group.before for group in own), max(group.step for group in own))
        for problem, own in groups.items()
        if all(group.before in DEAD for group in own)
    ]
    return sorted(found, key=lambda one: (-one.seen, one.problem))


def _last(name: str) -> _Read:
    """The mean of a metric over the last tenth of the steps."""

    def read(run: Run) -> float | None:
        values = [value for _, value in run.series(name)]
        return _mean(values[-max(1, round(_LAST * len(values))) :]) if values else None

    return read


def _over(name: str, summarize: Callable[[Sequence[float]], float]) -> _Read:
    def read(run: Run) -> float | None:
        values = [value for _, value in run.series(name)]
        return summarize(values) if values else None

    return read


def _dead_share(run: Run) -> float | None:
    """Of the problems that were sampled more than once: a single dead group says little about a problem."""
    times = Counter(group.problem for group in run.drawn if group.layer == 1)
    again = sum(count > 1 for count in times.values())
    return sum(one.seen > 1 for one in dead_prompts(run)) / again if again else None


def _kind_share(kind: Kind) -> _Read:
    def read(run: Run) -> float | None:
        kinds = [group.before for group in run.drawn if group.layer == 1]
        return kinds.count(kind) / len(kinds) if kinds else None

    return read


def _cured(strategy: str) -> _Read:
    """The share of the answers changed by a remedy, and graded, which are right afterwards."""

    def read(run: Run) -> float | None:
        verdicts = [
            one.verdict
            for one in run.completions
            if one.strategy == strategy and one.is_own and one.verdict != Verdict.ERROR
        ]
        return verdicts.count("correct") / len(verdicts) if verdicts else None

    return read


def _entropy_gap(run: Run) -> float | None:
    gaps = [gap for _, gap in entropy_gaps(run.completions)]
    return _mean(gaps) if gaps else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_RARE: Final = {f"{kind} groups, as sampled": kind for kind in Kind if kind is not Kind.USEFUL}
_FIGURES: Final[Mapping[str, tuple[str, _Read]]] = {
    "steps done": ("number", lambda run: float(run.num_steps)),
    "held-out accuracy, last": ("share", _over("eval/accuracy", lambda values: values[-1])),
    "held-out accuracy, best": ("share", _over("eval/accuracy", max)),
    "accuracy of samples, last tenth": ("share", _last("accuracy")),
    "reward as sampled, last tenth": ("number", _last("reward/before")),
    "reward after corrections, last tenth": ("number", _last("reward/after")),
    "groups without a signal, as sampled": ("share", _over("collapse/before", _mean)),
    "groups without a signal, after corrections": ("share", _over("collapse/after", _mean)),
    **{title: ("share", _kind_share(kind)) for title, kind in _RARE.items()},
    "always-dead prompts, of those sampled twice or more": ("share", _dead_share),
    "reflected answers, right afterwards": ("share", _cured("reflect")),
    "given answers, right afterwards": ("share", _cured("answer")),
    "reference answers, right afterwards": ("share", _cured("reference")),
    "completions cut off, last tenth": ("share", _last("length/unfinished")),
    "tokens per completion, last tenth": ("number", _last("length/sampled")),
    "variance of advantages before shaping": ("number", _over("advantage/variance_before", _mean)),
    "variance of advantages": ("number", _over("advantage/variance", _mean)),
    "entropy, last tenth, nats per token": ("number", _last("entropy")),
    "entropy of right minus wrong answers, nats per token": ("number", _entropy_gap),
    "gap between sampler and policy, nats": ("number", _over("sampler/gap", _mean)),
    "tokens sampled": ("number", _over("tokens", sum)),
    "time per step, median": ("time", _over("time/step_s", median)),
    "tokens per second, median": ("number", _over("time/tokens_per_s", median)),
}


def _figures(arms: Sequence[Arm]) -> dict[str, tuple[str, _Read]]:
    """All figures; those of parts of the reward, verdicts and phases are named as in the runs."""
    found = dict(_FIGURES)
    for name in dict.fromkeys(name for arm in arms for run in arm.runs for name in run.names("")):
        group, _, own = name.rpartition("/")
        if group == "reward/part":
            found[f"reward part {own}, last tenth"] = ("number", _last(name))
        elif group == "verdict":
            found[f"verdict {own}, last tenth"] = ("share", _last(name))
        elif group == "time" and own.removesuffix("_s") in PHASES:
            found[f"time per step, {own.removesuffix('_s')}, median"] = ("time", _over(name, median))
    return found


def _estimate(values: Sequence[float | None], lowest: float = -math.inf, highest: float = math.inf) -> Estimate | None:
    """A mean with its interval, as far as that is between the lowest and the highest possible value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, low, high = t_interval(known)
    return Estimate(mean, max(low, lowest), min(high, highest), len(known))


def _paired(
    base: Arm, other: Arm, base_values: Sequence[float | None], other_values: Sequence[float | None]
) -> Estimate | None:
    """The mean difference over runs with equal seeds."""
    partners = dict(zip(base.seeds, base_values, strict=True))
    changes: list[float | None] = [
        value - own if value is not None and (own := partners.get(seeds)) is not None else None
        for seeds, value in zip(other.seeds, other_values, strict=True)
    ]
    return _estimate(changes)


def shown(estimate: Estimate | None, form: str, *, signed: bool = False) -> str:
    """An estimate as text, with its interval if it has one.

    Example:
        >>> shown(Estimate(0.5, 0.4, 0.6, 3), "share")
        '50.0% (40.0 to 60.0)'
        >>> shown(Estimate(-0.05, math.nan, math.nan, 1), "share", signed=True)
        '-5.0 points'
    """
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    scale, digits, unit = {
        "share": (100.0, ".1f", " points" if signed else "%"),
        "time": (1.0, ".3g", " s"),
        "number": (1.0, ".3g" if abs(estimate.value) < 1000 else ",.0f", ""),
    }[form]
    text = f"{scale * estimate.value:{sign}{digits}}{unit}"
    if math.isnan(estimate.low):
        return text
    if estimate.low == estimate.high:
        return text  # every seed gave the same
    return f"{text} ({scale * estimate.low:{sign}{digits}} to {scale * estimate.high:{sign}{digits}})"
