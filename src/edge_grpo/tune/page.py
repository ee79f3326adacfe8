"""The page of a study: the posterior of the score and of every part along every setting, all trials, and the next one.

One HTML file without scripts or external resources. ``page.html`` is its template, which escapes all text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import torch

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.posterior import Gaussian
from edge_grpo.tune.record import Trial, best_of
from edge_grpo.tune.space import WHOLE, Categorical, Point, Range, Space, Value
from edge_grpo.tune.suggest import Belief, Suggestion, believe

__all__ = ["brief", "page"]

_SLICE = 61  # places along a range
_TICK = 12  # characters of a tick label

_Place = tuple[float, float]  # x and y in a panel, pixels


@dataclass(frozen=True)
class _Frame:
    """The size of a panel and the edges of its axes, pixels from the top left."""

    width: int = 250
    height: int = 150
    left: int = 38
    right: int = 242
    top: int = 8
    bottom: int = 128


_FRAME = _Frame()


@dataclass(frozen=True)
class _Scale:
    """The values at the bottom and the top of a row of panels."""

    low: float
    high: float

    def y(self, value: float) -> float:
        return _FRAME.bottom - (value - self.low) / (self.high - self.low) * (_FRAME.bottom - _FRAME.top)


@dataclass(frozen=True)
class _End:
    """A label of the vertical axis."""

    y: float
    text: str


@dataclass(frozen=True)
class _Tick:
    """A label of the horizontal axis."""

    x: float
    text: str
    anchor: Literal["start", "middle", "end"]


@dataclass(frozen=True)
class _Box:
    """The band and the mean of one category."""

    x: float
    bottom: float
    top: float
    middle: float


@dataclass(frozen=True)
class _Mark:
    """A trial: a cross if it did not finish."""

    x: float
    y: float
    kind: Literal["best", "dot", "cross"]
    told: str


@dataclass(frozen=True)
class _Panel:
    """One picture: a category has boxes, a range has a line with a band around it."""

    label: str
    ends: Sequence[_End]
    ticks: Sequence[_Tick]
    next_x: float | None
    boxes: Sequence[_Box]
    band: Sequence[_Place]
    line: Sequence[_Place]
    marks: Sequence[_Mark]


@dataclass(frozen=True)
class _Row:
    """The panels of the whole or of one part."""

    title: str
    panels: Sequence[_Panel]


def brief(value: Value) -> str:
    """A value in few characters.

    Example:
        >>> brief(3.98107e-05), brief(True), brief(16)
        ('3.98e-05', 'true', '16')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def page(
    space: Space,
    trials: Sequence[Trial],
    then: Suggestion | None,
    *,
    decomposed: bool = True,
    resolutions: Mapping[str, float] | None = None,
    title: str = "",
) -> str:
    """The page as HTML.

    Args:
        space: what is searched.
        trials: those that are over.
        then: the next suggestion.
        decomposed: whether the search sees the parts.
        resolutions: see :func:`edge_grpo.tune.suggest.believe`.
        title: names the study.

    Raises:
        ConfigError: the extra 'tune' is not installed.
    """
    best = best_of(trials)
    belief = believe(space, trials, decomposed=decomposed, resolutions=resolutions)
    html: str = _template().render(
        title=title,
        frame=_FRAME,
        names=list(space.space),
        parts=space.objective.parts,
        whole=WHOLE,
        metric=space.objective.metric,
        decomposed=decomposed,
        trials=trials,
        num_trials=space.trials,
        num_finished=sum(trial.state == "finished" for trial in trials),
        best=best,
        then=then,
        rows=_rows(belief, trials, best, then) if belief and best else [],
    )
    return html


def _template() -> Any:
    try:
        import jinja2  # noqa: PLC0415 - of the extra
    except ImportError:
        raise ConfigError("tuning needs the extra 'tune': pip install 'edge-grpo[tune]'") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"brief": brief, "px": "{:.1f}".format, "path": _path}
    return environment.from_string(files("edge_grpo.tune").joinpath("page.html").read_text(encoding="utf-8"))


def _path(places: Sequence[_Place]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _rows(belief: Belief, trials: Sequence[Trial], best: Trial, then: Suggestion | None) -> list[_Row]:
    space = belief.space
    slices = {name: [{**best.settings, name: value} for value in _values(own)] for name, own in space.space.items()}
    rows = []
    for name in (WHOLE, *(name for name in belief.names if name != WHOLE)):
        weight = space.objective.parts.get(name)
        title = name if weight is None else f"part {name} (weight {weight:g})"
        found = {along: _gaussian(belief, name, points) for along, points in slices.items()}
        values = _counted(belief, name)
        scale = _scale(values, list(found.values()))
        panels = [
            _Panel(
                label=f"{title} along {along}",
                ends=[_End(scale.y(end), f"{end:.2f}") for end in (scale.low, scale.high)],
                ticks=_ticks(own),
                next_x=_x(own, then.point[along]) if then else None,
                marks=[
                    _mark(trial, value, _x(own, trial.settings[along]), scale.y(value), best)
                    for trial, value in zip(trials, values, strict=True)
                ],
                **_drawn(own, found[along], scale),
            )
            for along, own in space.space.items()
        ]
        rows.append(_Row(title, panels))
    return rows


def _values(own: Range) -> list[Value]:
    """The values of a range from its low to its high end, each once."""
    if isinstance(own, Categorical):
        return list(own.values)
    return list(dict.fromkeys(own.value(place / (_SLICE - 1)) for place in range(_SLICE)))


def _gaussian(belief: Belief, name: str, points: Sequence[Point]) -> Gaussian:
    return belief.whole_at(points) if name == WHOLE else belief.parts_at(points)[name]


def _counted(belief: Belief, name: str) -> list[float]:
    """The scores with which the trials enter the belief."""
    values = belief.values[belief.names.index(name)] if name in belief.names else belief.weights @ belief.values
    counted: list[float] = values.tolist()
    return counted


def _scale(values: Sequence[float], found: Sequence[Gaussian]) -> _Scale:
    """A scale that holds all values and all bands."""
    ends = torch.cat([_bound(own, sign) for own in found for sign in (-2.0, 2.0)])
    low, high = min(float(ends.min()), *values), max(float(ends.max()), *values)
    return _Scale(low, max(high, low + 1e-9))


def _bound(own: Gaussian, factor: float) -> torch.Tensor:
    return own.mean + factor * own.variance.clamp(min=0).sqrt()


def _drawn(own: Range, found: Gaussian, scale: _Scale) -> dict[str, Any]:
    """Boxes, or a line with its band."""
    mean, low, high = ([scale.y(end) for end in _bound(found, factor).tolist()] for factor in (0.0, -2.0, 2.0))
    xs = [_x(own, value) for value in _values(own)]
    if isinstance(own, Categorical):
        boxes = [_Box(x, bottom, top, middle) for x, middle, bottom, top in zip(xs, mean, low, high, strict=True)]
        return {"boxes": boxes, "band": [], "line": []}
    band = [*zip(xs, high, strict=True), *zip(reversed(xs), reversed(low), strict=True)]
    return {"boxes": [], "band": band, "line": list(zip(xs, mean, strict=True))}


def _ticks(own: Range) -> list[_Tick]:
    if isinstance(own, Categorical):
        return [_Tick(_x(own, value), brief(value)[:_TICK], "middle") for value in own.values]
    return [
        _Tick(_x(own, own.low), brief(own.low)[:_TICK], "start"),
        _Tick(_x(own, own.high), brief(own.high)[:_TICK], "end"),
    ]


def _mark(trial: Trial, value: float, x: float, y: float, best: Trial) -> _Mark:
    kind: Literal["best", "dot", "cross"] = "cross"
    if trial.state == "finished":
        kind = "best" if trial is best else "dot"
    return _Mark(x, y, kind, f"trial {trial.number} ({trial.state}): {value:.4f}")


def _x(own: Range, value: Any) -> float:
    place = (own.index(value) + 0.5) / len(own.values) if isinstance(own, Categorical) else own.place(value)
    return _FRAME.left + place * (_FRAME.right - _FRAME.left)
