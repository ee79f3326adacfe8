"""The charts of a report: what the runs of each arm did, as data that :mod:`edge_grpo.report.charts` draws."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_grpo.base.records import Verdict
from edge_grpo.base.rng import derive_seed
from edge_grpo.evaluation.intervals import t_interval
from edge_grpo.report.arms import Arm
from edge_grpo.report.charts import Bars, Chart, Curve, Lines, Place, Points, Stack
from edge_grpo.report.groups import Kind
from edge_grpo.report.run import Drawn, Entry, Run

__all__ = ["PHASES", "charts", "entropy_gaps", "smoothed"]

_WINDOWS = 20  # a curve is smoothed over a twentieth of its steps
_MOST_POINTS = 1500  # of a scatter plot
_RIGHT, _WRONG, _OTHER = 2, 1, 7  # colours
_KINDS: Final = {
    Kind.USEFUL: 2,
    Kind.NEAR_CONSTANT: 4,
    Kind.ALL_WRONG: 1,
    Kind.ALL_RIGHT: 0,
    Kind.EQUAL: 3,
    Kind.UNSCORABLE: 7,
}
_VERDICTS: Final = {"correct": 2, "wrong": 1, "unparsed": 4, "timeout": 3, "error": 7}
PHASES: Final = ("sample", "grade", "correct", "score", "update", "eval", "write")
"""Of a step, by the names that the metrics ``time/*_s`` have."""


_Series = Callable[[Run], list[Place]]
_OfArm = Callable[[Arm, Sequence[Arm]], Chart]


@dataclass(frozen=True)
class _Overlay:
    """A chart with the curves of all arms: ``series`` by label, ``band`` the metrics of an interval."""

    title: str
    says: str
    series: Mapping[str, _Series]
    unit: str = "share"
    band: tuple[str, str] | None = None


def charts(arms: Sequence[Arm]) -> Iterator[tuple[str, Chart]]:
    """The charts of a report with the heading each belongs under; one without any value is left out."""
    for heading, (overlays, own) in _headings(arms).items():
        made = [_overlaid(arms, one) for one in overlays] + [draw(arm, arms) for arm in arms for draw in own]
        yield from ((heading, chart) for chart in made if not _is_empty(chart))


def _headings(arms: Sequence[Arm]) -> dict[str, tuple[Sequence[_Overlay], Sequence[_OfArm]]]:
    """What is under each heading: charts of all arms, and charts that each arm has for itself."""
    names = dict.fromkeys(name for arm in arms for run in arm.runs for name in run.names("reward/part/"))
    parts = {name.removeprefix("reward/part/"): _metric(name) for name in names}
    return {
        "Outcome": (
            [*_OUTCOME, _Overlay("Reward by part", "Mean of each part, unweighted, as sampled.", parts, "reward")],
            (),
        ),
        "Collapse": (_COLLAPSE, (_kinds_before, _kinds_after)),
        "Corrections": ((), (_remedies,)),
        "Advantages": (_ADVANTAGES, (_reshaped, _by_entropy)),
        "Entropy": (_ENTROPY, ()),
        "Optimization": (_OPTIMIZATION, ()),
        "Lengths": (_LENGTHS, ()),
        "Verdicts": ((), (_verdicts,)),
        "Speed": (_SPEED, (_phases,)),
    }


def entropy_gaps(completions: Sequence[Entry]) -> list[Place]:
    """Mean entropy of right minus that of wrong answers, nats per token: the mean over a step's mixed groups.

    Only answers that were not corrected count: the entropy of injected text says nothing about what the policy would
    have sampled.
    """
    found: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in completions:
        if one.entropy is not None and one.strategy == "none" and one.is_own and one.verdict in ("correct", "wrong"):
            found[one.step, one.sampled_group][one.verdict].append(one.entropy)
    steps: dict[int, list[float]] = defaultdict(list)
    for (step, _), own in found.items():
        if len(own) == 2:
            steps[step].append(_mean(own["correct"]) - _mean(own["wrong"]))
    return [(step, _mean(gaps)) for step, gaps in sorted(steps.items())]


def smoothed(points: Sequence[Place], window: int) -> list[Place]:
    """Each value replaced by the mean of it and the values before it, ``window`` at most."""
    return [
        (step, _mean([value for _, value in points[max(0, index + 1 - window) : index + 1]]))
        for index, (step, _) in enumerate(points)
    ]


def _overlaid(arms: Sequence[Arm], one: _Overlay) -> Chart:
    """Curves of all arms; those of one quantity share a colour if there are several arms, and are dashed in turn."""
    curves = []
    window = 1
    for number, arm in enumerate(arms):
        for part, (label, read) in enumerate(one.series.items()):
            runs = [own for own in (read(run) for run in arm.runs) if own]
            if not runs:
                continue
            window = max(window, 1 if one.band else len(runs[0]) // _WINDOWS)
            name = " ".join(filter(None, (arm.title if len(arms) > 1 else "", label))) or one.title.lower()
            color = number if len(arms) > 1 else part
            curve = _curve(name, runs, window, color, dashed=len(arms) > 1 and part % 2 == 1)
            curves.append(_within(curve) if one.unit == "share" else curve)
            if one.band and len(arm.runs) == 1:
                curves[-1] = _with_interval(curves[-1], arm.runs[0], *one.band)
    notes = [one.says]
    if window > 1:
        notes.append(f"Curves are means of the last {window} steps.")
    if not one.band and any(curve.band for curve in curves):
        notes.append("Bands are 95% intervals over seeds.")
    return Chart(one.title, " ".join(notes), Lines(curves, one.unit, share=one.unit == "share"))


def _within(curve: Curve) -> Curve:
    """A curve of shares, whose band stays between 0 and 1."""
    return replace(curve, band=[(step, max(0.0, low), min(1.0, high)) for step, low, high in curve.band])


def _curve(label: str, runs: Sequence[list[Place]], window: int, color: int, *, dashed: bool) -> Curve:
    drawn = [smoothed(own, window) for own in runs]
    if len(runs) == 1:
        return Curve(label, drawn[0], color, dashed=dashed, faint=runs[0] if window > 1 else ())
    values: dict[float, list[float]] = defaultdict(list)
    for own in drawn:
        for step, value in own:
            values[step].append(value)
    whole = {step: t_interval(own) for step, own in sorted(values.items()) if len(own) == len(runs)}
    points = [(step, mean) for step, (mean, _, _) in whole.items()]
    return Curve(label, points, color, [(step, low, high) for step, (_, low, high) in whole.items()], dashed)


def _with_interval(curve: Curve, run: Run, low: str, high: str) -> Curve:
    ends = dict(run.series(low)), dict(run.series(high))
    band = [(step, ends[0][int(step)], ends[1][int(step)]) for step, _ in curve.points if int(step) in ends[0]]
    return Curve(curve.label, curve.points, curve.color, band, curve.dashed)


def _titled(title: str, arm: Arm, arms: Sequence[Arm]) -> str:
    return f"{title}: {arm.title}" if len(arms) > 1 else title


def _kinds_before(arm: Arm, arms: Sequence[Arm]) -> Chart:
    says = (
        "Share of each kind among the groups of a step. All wrong, all right, equal and unscorable groups teach "
        "nothing; rewards of near-constant groups differ by at most 1% of the run's usual range."
    )
    return _kinds(_titled("Kinds of groups, as sampled", arm, arms), says, arm, lambda group: group.before)


def _kinds_after(arm: Arm, arms: Sequence[Arm]) -> Chart:
    says = "The same groups after corrections; 'dropped' ones were left out by dynamic sampling."
    return _kinds(
        _titled("Kinds of groups, after corrections", arm, arms), says, arm, lambda one: one.after or "dropped"
    )


def _kinds(title: str, says: str, arm: Arm, kind: Callable[[Drawn], str]) -> Chart:
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for run in arm.runs:
        for group in (one for one in run.drawn if one.layer == 1 and run.samples):
            counts[group.step][str(kind(group))] += 1
    colors = {str(name): color for name, color in _KINDS.items()} | {"dropped": 6}
    return Chart(title, says, _stacked(counts, colors, "share of groups"))


def _verdicts(arm: Arm, arms: Sequence[Arm]) -> Chart:
    counts: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for run in arm.runs:
        for verdict in map(str, Verdict):
            for step, share in run.series(f"verdict/{verdict}"):
                counts[step][verdict] += share
    says = "What grading said of the sampled completions. An 'error' is the grader's fault; such a row is not trained."
    return Chart(_titled("Verdicts", arm, arms), says, _stacked(counts, _VERDICTS, "share of completions"))


def _stacked(counts: Mapping[int, Mapping[str, float]], colors: Mapping[str, int], ylabel: str) -> Stack:
    steps = sorted(counts)
    seen = [name for name in colors if any(counts[step].get(name) for step in steps)]
    totals = {step: sum(counts[step].values()) or 1.0 for step in steps}
    parts = {name: [counts[step].get(name, 0) / totals[step] for step in steps] for name in seen}
    return Stack(steps, parts, ylabel, [colors[name] for name in seen])


def _remedies(arm: Arm, arms: Sequence[Arm]) -> Chart:
    bars: dict[str, Counter[str]] = {name: Counter() for name in ("reflect", "answer", "reference")}
    for run in arm.runs:
        for one in run.completions:
            if one.strategy in bars and one.is_own:
                fate = one.verdict if one.verdict in ("correct", "wrong") else "not graded"
                bars[one.strategy][{"correct": "right afterwards", "wrong": "still wrong"}.get(fate, fate)] += 1
    names = ("right afterwards", "still wrong", "not graded")
    counted = {bar: {name: float(own[name]) for name in names if own[name]} for bar, own in bars.items() if own}
    seen = [name for name in names if any(name in own for own in counted.values())]
    ordered = {bar: {name: own.get(name, 0.0) for name in seen} for bar, own in counted.items()}
    colors = [{"right afterwards": _RIGHT, "still wrong": _WRONG}.get(name, _OTHER) for name in seen]
    says = (
        "What became of wrong answers that were continued after a hint (reflect), given the answer, or replaced by the "
        "reference."
    )
    return Chart(_titled("Fate of each remedy", arm, arms), says, Bars(ordered, "completions", colors))


def _reshaped(arm: Arm, arms: Sequence[Arm]) -> Chart:
    clouds = _clouds(arm, lambda one: (one.advantage_before_shaping, one.advantage))
    says = "A point is a trained completion. On a straight line, the method has only scaled the advantages."
    drawing = Points(clouds, "advantage before shaping", "advantage after", [_RIGHT, _WRONG])
    return Chart(_titled("Advantages before and after shaping", arm, arms), f"{says}{_sampled(arm)}", drawing)


def _by_entropy(arm: Arm, arms: Sequence[Arm]) -> Chart:
    clouds = _clouds(arm, lambda one: (one.entropy, one.advantage))
    says = "A point is a trained completion: its mean entropy in nats per token, and the advantage it was trained with."
    drawing = Points(clouds, "entropy, nats per token", "advantage", [_RIGHT, _WRONG])
    return Chart(_titled("Advantage against entropy", arm, arms), f"{says}{_sampled(arm)}", drawing)


def _clouds(arm: Arm, place: Callable[[Entry], tuple[float | None, float | None]]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {"right": [], "wrong": []}
    for one in _trained(arm):
        x, y = place(one)
        if x is not None and y is not None:
            found["right" if one.verdict == "correct" else "wrong"].append((x, y))
    return found


def _trained(arm: Arm) -> list[Entry]:
    """The trained completions, or a fixed random sample if there are many."""
    rows = [one for run in arm.runs for one in run.completions if one.trained]
    return rows if len(rows) <= _MOST_POINTS else random.Random(derive_seed("points")).sample(rows, _MOST_POINTS)


def _sampled(arm: Arm) -> str:
    total = sum(one.trained for run in arm.runs for one in run.completions)
    return f" {_MOST_POINTS:,} of {total:,} completions, drawn at random." if total > _MOST_POINTS else ""


def _phases(arm: Arm, arms: Sequence[Arm]) -> Chart:
    seconds: dict[str, dict[int, float]] = {phase: defaultdict(float) for phase in PHASES}
    num_runs = Counter(int(row["step"]) for run in arm.runs for row in run.rows if row["step"] > 0)
    for run in arm.runs:
        for phase in PHASES:
            for step, value in run.series(f"time/{phase}_s"):
                seconds[phase][step] += value
    steps = sorted(num_runs)
    parts = {
        phase: [own.get(step, 0.0) / num_runs[step] for step in steps]
        for phase, own in seconds.items()
        if any(own.values())
    }
    colors = [list(PHASES).index(phase) for phase in parts]
    says = "Where the time of a step goes, in seconds; evaluation and writing count towards the step they follow."
    drawing = Stack(steps, parts, "seconds", colors, share=False)
    return Chart(_titled("Time by phase", arm, arms), says, drawing)


def _is_empty(chart: Chart) -> bool:
    drawing = chart.drawing
    if isinstance(drawing, Lines):
        return not any(curve.points for curve in drawing.curves)
    if isinstance(drawing, Points):
        return not any(drawing.clouds.values())
    return not (drawing.parts and drawing.steps if isinstance(drawing, Stack) else drawing.bars)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _metric(name: str) -> _Series:
    return lambda run: [(step, value) for step, value in run.series(name)]


def _speed(run: Run) -> list[Place]:
    return [(step, value) for step, value in run.series("time/tokens_per_s") if value > 0]


_OUTCOME: Final = (
    _Overlay(
        "Held-out accuracy",
        "Share of held-out problems answered correctly; bands are 95% intervals, over seeds where there are several, "
        "else over problems.",
        {"": _metric("eval/accuracy")},
        band=("eval/accuracy_low", "eval/accuracy_high"),
    ),
    _Overlay(
        "Accuracy of samples",
        "Share of sampled completions that are right, before any correction.",
        {"": _metric("accuracy")},
    ),
    _Overlay(
        "Pairs ranked right",
        "Share of pairs of which the chosen answer has the higher implicit reward.",
        {"": _metric("rewards/accuracies")},
    ),
    _Overlay(
        "Reward before and after corrections",
        "Mean reward as sampled, and after corrections and dynamic sampling.",
        {"before": _metric("reward/before"), "after": _metric("reward/after")},
        "reward",
    ),
)
_COLLAPSE: Final = (
    _Overlay(
        "Groups without a signal",
        "Share of groups whose rewards are all equal, so that every advantage is zero: as sampled, dropped groups "
        "included, and as compared after corrections.",
        {"as sampled": _metric("collapse/before"), "after corrections": _metric("collapse/after")},
    ),
)
_ADVANTAGES: Final = (
    _Overlay(
        "Spread of advantages within groups",
        "Variance within groups, before and after the method reshapes advantages (by entropy, for example).",
        {"before": _metric("advantage/variance_before"), "after": _metric("advantage/variance")},
        "variance",
    ),
)
_ENTROPY: Final = (
    _Overlay(
        "Entropy",
        "Nats per token that the policy sampled, among those trained.",
        {"": _metric("entropy")},
        "nats per token",
    ),
    _Overlay(
        "Entropy of right minus wrong answers to the same question",
        "Mean difference over groups with both, nats per token. Below 0, the policy is more confident when right.",
        {"": lambda run: entropy_gaps(run.completions)},
        "nats per token",
    ),
)
_OPTIMIZATION: Final = (
    _Overlay(
        "Loss",
        "Mean over the step's updates; 0 by construction with one update per step.",
        {"": _metric("loss")},
        "loss",
    ),
    _Overlay("Gradient norm", "Before clipping, mean over the step's updates.", {"": _metric("grad_norm")}, "norm"),
    _Overlay(
        "Drift",
        "How far the policy moved within the step, and is from the reference, nats per token.",
        {"within the step": _metric("kl/old"), "from the reference": _metric("kl/reference")},
        "nats per token",
    ),
    _Overlay(
        "Clipped tokens",
        "Share of tokens whose gradient the clip removed, below and above.",
        {"below": _metric("clip/low"), "above": _metric("clip/high")},
    ),
    _Overlay("Learning rate", "Of the step.", {"": _metric("learning_rate")}, "learning rate"),
)
_LENGTHS: Final = (
    _Overlay("Length", "Tokens per sampled completion.", {"": _metric("length/sampled")}, "tokens"),
    _Overlay(
        "Cut off",
        "Share of completions that ran out of rollout.max_new_tokens.",
        {"": _metric("length/unfinished")},
    ),
)
_SPEED: Final = (
    _Overlay("Tokens per second", "Sampled tokens per second of a step.", {"": _speed}, "tokens per second"),
    _Overlay(
        "Gap between sampler and policy",
        "Mean absolute difference of their log-probs of a sampled token, nats; only where their numbers can differ.",
        {"": _metric("sampler/gap")},
        "nats",
    ),
)
