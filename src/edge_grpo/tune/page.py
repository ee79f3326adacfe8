"""The page of a study: what is believed of the whole and of every part along every setting, all trials, the next one.

One HTML file without scripts or anything from elsewhere; all text in it is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from edge_grpo.tune.posterior import Gaussian
from edge_grpo.tune.record import Trial, best_of
from edge_grpo.tune.space import WHOLE, Categorical, Point, Range, Space, Value
from edge_grpo.tune.suggest import Belief, Suggestion, believe

__all__ = ["brief", "page"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 250, 150, 38, 8, 8, 22  # of a panel, pixels
_SLICE = 61  # places along a range
_STYLE = """
:root { color-scheme: light dark; --line: #1f6feb; --band: #1f6feb33; --dot: #444; --best: #d1242f; --next: #1a7f37;
  --grid: #8886; }
@media (prefers-color-scheme: dark) { :root { --line: #79b8ff; --band: #79b8ff33; --dot: #bbb; --best: #ff7b72;
  --next: #56d364; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1250px; padding: 0 1em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .7em; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--grid); font-weight: 600; }
th:last-child, td:last-child { text-align: left; white-space: normal; min-width: 6em; }
.panels th { text-align: left; white-space: normal; border: 0; min-width: 5em; }
.panels td { padding: 0; min-width: 0; }
.best { color: var(--best); font-weight: 600; }
.next { color: var(--next); font-weight: 600; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
"""


@dataclass(frozen=True)
class _Row:
    """A row of panels: its title, its trials as (settings, value, finished), and its scale."""

    title: str
    seen: Sequence[tuple[Trial, float]]
    low: float
    high: float

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


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
    space: Space, trials: Sequence[Trial], then: Suggestion | None, *, decomposed: bool = True, title: str = ""
) -> str:
    """The page as HTML.

    Args:
        space: what is searched.
        trials: those that are over.
        then: what would be tried next.
        decomposed: whether the parts are told apart.
        title: names the study.
    """
    best = best_of(trials)
    belief = believe(space, trials, decomposed=decomposed)
    body = [f"<h1>{escape(title or 'Search')}</h1>", *_summary(space, trials, best, then, decomposed=decomposed)]
    if belief is None or best is None:
        body.append("<p>There is no posterior before two trials have finished.</p>")
    else:
        body += ["<h2>Posterior</h2>", _legend(best, len(trials)), _panels(belief, trials, best, then)]
    body += ["<h2>Trials</h2>", _table(space, trials, best)]
    name = escape(title or "search")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _summary(
    space: Space, trials: Sequence[Trial], best: Trial | None, then: Suggestion | None, *, decomposed: bool
) -> list[str]:
    weights = " + ".join(f"{weight:g} &times; <b>{escape(name)}</b>" for name, weight in space.objective.parts.items())
    sees = "every part" if decomposed else "the sum alone"
    lines = [f"<p>Score: {weights} ({escape(space.objective.metric)}). The search sees {sees}.</p>"]
    finished = sum(trial.state == "finished" for trial in trials)
    lines.append(f"<p>{len(trials)} of {space.trials} trials are over, {finished} of them finished.</p>")
    if best:
        lines.append(
            f'<p><span class="best">Best so far</span>: trial {best.number}, {best.whole:.4f} with '
            f"{_settings(best.settings)}</p>"
        )
    if then:
        expected = "" if then.mean is None else f"; expected {then.mean:.4f} &plusmn; {then.deviation:.4f}"
        why = (
            "spread evenly"
            if then.why == "initial"
            else "highest upper confidence bound, which a point of lower mean may have"
        )
        lines.append(f'<p><span class="next">Next</span>: {_settings(then.point)} ({why}{expected})</p>')
    else:
        lines.append("<p>Every point of the space has been tried.</p>")
    return lines


def _settings(point: Point) -> str:
    return ", ".join(f"<code>{escape(name)}={escape(brief(value))}</code>" for name, value in point.items())


def _legend(best: Trial, count: int) -> str:
    return (
        f"<p>Each panel varies one setting, the others are those of trial {best.number}. Line: mean; band: two "
        f"standard deviations of the mean score, without noise. Dots: the {count} trials, wherever their "
        "other settings are; "
        '<span class="best">red</span>: the best; crosses: not finished, at the score that they count as; '
        '<span class="next">green</span>: the next one.</p>'
    )


def _panels(belief: Belief, trials: Sequence[Trial], best: Trial, then: Suggestion | None) -> str:
    space = belief.space
    head = "".join(f"<th>{escape(name)}</th>" for name in space.space)
    lines = [f'<div class="wide"><table class="panels"><tr><th></th>{head}</tr>']
    slices = {name: _points(space, best.settings, name) for name in space.space}
    names = (WHOLE, *(name for name in belief.names if name != WHOLE))
    for name in names:
        found = {along: _gaussian(belief, name, points) for along, points in slices.items()}
        row = _row(belief, name, trials, list(found.values()))
        cells = "".join(
            f"<td>{_panel(row, along, each, found[along], best, then)}</td>" for along, each in space.space.items()
        )
        lines.append(f"<tr><th>{escape(row.title)}</th>{cells}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _points(space: Space, settings: Point, along: str) -> list[dict[str, Value]]:
    return [{**settings, along: value} for value in _values(space.space[along])]


def _values(own: Range) -> list[Value]:
    """The values of a range from its low to its high end, each once."""
    if isinstance(own, Categorical):
        return list(own.values)
    return list(dict.fromkeys(own.value(place / (_SLICE - 1)) for place in range(_SLICE)))


def _gaussian(belief: Belief, name: str, points: Sequence[Point]) -> Gaussian:
    return belief.whole_at(points) if name == WHOLE else belief.parts_at(points)[name]


def _row(belief: Belief, name: str, trials: Sequence[Trial], found: Sequence[Gaussian]) -> _Row:
    """The values that trials count with, and a scale for these and all bands."""
    if name in belief.names:
        values = belief.values[belief.names.index(name)].tolist()
    else:
        values = (belief.weights @ belief.values).tolist()
    ends = torch.cat([_bound(own, sign) for own in found for sign in (-2.0, 2.0)])
    low, high = min(float(ends.min()), *values), max(float(ends.max()), *values)
    weight = belief.space.objective.parts.get(name)
    title = name if weight is None else f"part {name} (weight {weight:g})"
    return _Row(title, list(zip(trials, values, strict=True)), low, max(high, low + 1e-9))


def _bound(own: Gaussian, factor: float) -> torch.Tensor:
    return own.mean + factor * own.variance.clamp(min=0).sqrt()


def _panel(row: _Row, along: str, own: Range, found: Gaussian, best: Trial, then: Suggestion | None) -> str:
    values = _values(own)
    mean, low, high = (_bound(found, factor).tolist() for factor in (0.0, -2.0, 2.0))
    parts = _axes(row, own)
    if then:
        x = _x(own, then.point[along])
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="var(--next)" '
            'stroke-width="1.5" stroke-dasharray="4 3"/>'
        )
    if isinstance(own, Categorical):
        for value, middle, bottom, top in zip(values, mean, low, high, strict=True):
            x = _x(own, value)
            parts.append(_box(x, row.y(bottom), row.y(top), row.y(middle)))
    else:
        xs = [_x(own, value) for value in values]
        edge = [(x, row.y(y)) for x, y in zip(xs, high, strict=True)]
        edge += [(x, row.y(y)) for x, y in zip(reversed(xs), reversed(low), strict=True)]
        line = [(x, row.y(y)) for x, y in zip(xs, mean, strict=True)]
        parts.append(f'<polygon points="{_path(edge)}" fill="var(--band)"/>')
        parts.append(f'<polyline points="{_path(line)}" fill="none" stroke="var(--line)" stroke-width="1.5"/>')
    parts += [_dot(row, own, along, trial, value, is_best=trial is best) for trial, value in row.seen]
    label = escape(f"{row.title} along {along}", quote=True)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(row: _Row, own: Range) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="var(--grid)"/>']
    for end in (row.low, row.high):
        parts.append(f'<text x="{_LEFT - 4}" y="{row.y(end) + 4:.1f}" text-anchor="end">{end:.2f}</text>')
    labels: list[tuple[Value, str]]
    if isinstance(own, Categorical):
        labels = [(value, "middle") for value in own.values]
    else:
        labels = [(own.low, "start"), (own.high, "end")]
    for value, anchor in labels:
        text = escape(brief(value)[:12])
        parts.append(f'<text x="{_x(own, value):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    return parts


def _box(x: float, bottom: float, top: float, middle: float) -> str:
    return (
        f'<rect x="{x - 14:.1f}" y="{top:.1f}" width="28" height="{max(bottom - top, 0):.1f}" fill="var(--band)"/>'
        f'<line x1="{x - 14:.1f}" x2="{x + 14:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="var(--line)" '
        'stroke-width="1.5"/>'
    )


def _dot(row: _Row, own: Range, along: str, trial: Trial, value: float, *, is_best: bool) -> str:
    x, y = _x(own, trial.settings[along]), row.y(value)
    told = f"<title>{escape(f'trial {trial.number} ({trial.state}): {value:.4f}')}</title>"
    if trial.state != "finished":
        cross = f"M{x - 3:.1f} {y - 3:.1f}l6 6m-6 0l6 -6"
        return f'<path d="{cross}" stroke="var(--dot)" stroke-width="1.5">{told}</path>'
    colour, size = ("var(--best)", 4) if is_best else ("var(--dot)", 2.5)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}">{told}</circle>'


def _x(own: Range, value: Any) -> float:
    place = (own.index(value) + 0.5) / len(own.values) if isinstance(own, Categorical) else own.place(value)
    return _LEFT + place * (_WIDTH - _LEFT - _RIGHT)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _table(space: Space, trials: Sequence[Trial], best: Trial | None) -> str:
    parts = [*space.objective.parts]
    head = ["", *space.space, *parts, WHOLE, "seconds", "state"]
    lines = ['<div class="wide"><table>', f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    for trial in trials:
        cells = [
            str(trial.number),
            *(brief(trial.settings[name]) for name in space.space),
            *(_score(trial.parts, name) for name in parts),
            "" if trial.whole is None else f"{trial.whole:.4f}",
            f"{trial.seconds:.0f}",
            trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
        ]
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        shade = ' class="best"' if trial is best else ""
        lines.append(f"<tr{shade}>{row}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _score(parts: Mapping[str, float], name: str) -> str:
    return f"{parts[name]:.3f}" if name in parts else ""
