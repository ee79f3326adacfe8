"""Charts as data, and their drawing: an SVG that follows the colours of the page, and a table of its values."""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree

from edge_grpo.base.text import visible

__all__ = ["Bars", "Chart", "Curve", "Lines", "Points", "Stack", "draw", "table_of_values"]

Place = tuple[float, float]

_NUM_COLORS: Final = 8
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_INK, _GRID = "#0101f0", "#0101f1"
_COLORS: Final = tuple(f"#0202{number:02x}" for number in range(_NUM_COLORS))
_VARIABLES: Final = {_INK: "var(--ink)", _GRID: "var(--grid)"} | {
    color: f"var(--c{number})" for number, color in enumerate(_COLORS)
}  # matplotlib knows no variables, so each of the page's has a colour of its own until the SVG is written
_TABLE_ROWS = 12
_LEGEND_LETTERS = 66  # in a line
_LONG_NUMBER: Final = re.compile(r"-?\d+\.\d{2,}")


@dataclass(frozen=True)
class Curve:
    """A line over steps: its points, the band around it (empty = none), and its colour by number."""

    label: str
    points: Sequence[Place]
    color: int
    band: Sequence[tuple[float, float, float]] = ()
    dashed: bool = False
    faint: Sequence[Place] = ()


@dataclass(frozen=True)
class Lines:
    """Curves over steps."""

    curves: Sequence[Curve]
    ylabel: str
    share: bool = False


@dataclass(frozen=True)
class Stack:
    """Parts of a whole over steps, from the bottom up; each part's colour by number."""

    steps: Sequence[float]
    parts: Mapping[str, Sequence[float]]
    ylabel: str
    colors: Sequence[int]
    share: bool = True


@dataclass(frozen=True)
class Points:
    """Points of a plane, by what they belong to."""

    clouds: Mapping[str, Sequence[Place]]
    xlabel: str
    ylabel: str
    colors: Sequence[int]
    zero: bool = True


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, each made of parts."""

    bars: Mapping[str, Mapping[str, float]]
    xlabel: str
    colors: Sequence[int]


@dataclass(frozen=True)
class Chart:
    """A titled picture; ``says`` is its caption, and what a screen reader is told first."""

    title: str
    says: str
    drawing: Lines | Stack | Points | Bars = field(repr=False)


def draw(chart: Chart, name: str) -> str:
    """The chart as an SVG element.

    It holds no scripts, no styles and no links; its colours are CSS variables of the page (``--ink``, ``--grid``,
    ``--c0`` ...).

    Args:
        chart: what to draw.
        name: unique in the page; ids in the SVG start with it.
    """
    import matplotlib  # noqa: PLC0415 - slow imports, needed here only
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "text.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "path.simplify_threshold": 0.5,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has other fonts
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        _DRAWN[type(chart.drawing)](axes, chart.drawing)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _plain(file.getvalue(), name, visible(f"{chart.title}. {chart.says}"))


def _lines(axes: Any, drawing: Lines) -> None:
    handles = []
    for curve in drawing.curves:
        color = _COLORS[curve.color % _NUM_COLORS]
        if curve.band:
            steps, low, high = zip(*curve.band, strict=True)
            axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        if curve.faint:
            axes.plot(*zip(*curve.faint, strict=True), color=color, linewidth=0.7, alpha=0.35)
        marker = "o" if len(curve.points) < 16 else ""
        handles += axes.plot(
            *(zip(*curve.points, strict=True) if curve.points else ((), ())),
            color=color,
            linewidth=1.7,
            linestyle="--" if curve.dashed else "-",
            marker=marker,
            markersize=3,
        )
    _over_steps(axes, drawing.ylabel)
    values = [value for curve in drawing.curves for _, value in (*curve.points, *curve.faint)]
    if drawing.share:
        _shares(axes)
        ends = (high for curve in drawing.curves for _, _, high in curve.band)
        axes.set_ylim(0, 1.05 * max(0.02, *values, *ends))
    elif min(values) < max(values):  # bands of two seeds can be far wider than anything that was measured
        room = 0.3 * (max(values) - min(values))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(values) - room), min(high, max(values) + room))
    if len(drawing.curves) > 1:
        _legend(axes, handles, [curve.label for curve in drawing.curves])


def _stack(axes: Any, drawing: Stack) -> None:
    colors = [_COLORS[number % _NUM_COLORS] for number in drawing.colors]
    handles = axes.stackplot(drawing.steps, *drawing.parts.values(), colors=colors, linewidth=0)
    _over_steps(axes, drawing.ylabel)
    axes.margins(x=0)
    if drawing.share:
        _shares(axes)
        axes.set_ylim(0, 1)
    _legend(axes, handles, list(drawing.parts))


def _points(axes: Any, drawing: Points) -> None:
    handles = {}
    for number, (label, cloud) in zip(drawing.colors, drawing.clouds.items(), strict=True):
        if cloud:
            color = _COLORS[number % _NUM_COLORS]
            handles[label] = axes.scatter(*zip(*cloud, strict=True), s=9, color=color, alpha=0.5, linewidths=0)
    if drawing.zero:
        axes.axhline(0, color=_INK, linewidth=0.6)
    axes.set_xlabel(drawing.xlabel)
    axes.set_ylabel(drawing.ylabel)
    if handles:
        _legend(axes, list(handles.values()), list(handles))


def _bars(axes: Any, drawing: Bars) -> None:
    names = [visible(name) for name in drawing.bars]
    handles = []
    parts = dict.fromkeys(part for own in drawing.bars.values() for part in own)
    lefts = [0.0] * len(names)
    for number, part in zip(drawing.colors, parts, strict=False):
        widths = [own.get(part, 0.0) for own in drawing.bars.values()]
        handles.append(axes.barh(names, widths, left=lefts, color=_COLORS[number % _NUM_COLORS], height=0.6))
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(drawing.xlabel)
    axes.grid(visible=False, axis="y")
    _legend(axes, handles, list(parts))


_DRAWN: Final[Mapping[type, Callable[[Any, Any], None]]] = {Lines: _lines, Stack: _stack, Points: _points, Bars: _bars}


def _over_steps(axes: Any, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))


def _shares(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _legend(axes: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    shown = [visible(label) for label in labels]
    columns = max(1, min(4, _LEGEND_LETTERS // (max(map(len, shown), default=0) + 5)))
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns}
    axes.legend(handles, shown, **place, frameon=False, fontsize=9, handlelength=1.4)


def _plain(text: str, name: str, label: str) -> str:
    """An SVG element of a page: no styles but attributes, ids of its own, described to a screen reader."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    root = ElementTree.fromstring(text)  # noqa: S314 - matplotlib has just written it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        if path := element.get("d"):
            element.set("d", _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.1f}", path))
        for key, value in _styles(element.attrib.pop("style", "")):
            element.set(key, value)
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif value.startswith("#") and key == f"{{{_LINK}}}href":
                element.set(key, f"#{name}-{value[1:]}")
            else:
                element.set(key, _VARIABLES.get(value, value.replace("url(#", f"url(#{name}-")))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _styles(style: str) -> list[tuple[str, str]]:
    """The declarations of a ``style`` attribute as attributes; of a font, its size alone."""
    found = []
    for key, _, value in (part.partition(":") for part in style.split(";") if part.strip()):
        name, text = key.strip(), value.strip()
        if name == "font":
            size = re.search(r"[\d.]+px", text)
            name, text = "font-size", size[0] if size else "10px"
        if name != "font-family":  # the page's own
            found.append((name, text))
    return found


def table_of_values(drawing: Lines | Stack | Points | Bars) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of what is drawn; of many steps, some evenly spread ones and the last."""
    if isinstance(drawing, Points):
        heads = ["", "points", f"mean {drawing.xlabel}", f"mean {drawing.ylabel}"]
        rows = [
            [label, f"{len(cloud):,}", *(_figure(sum(each) / len(each)) for each in zip(*cloud, strict=True))]
            for label, cloud in drawing.clouds.items()
            if cloud
        ]
        return heads, rows
    if isinstance(drawing, Bars):
        parts = list(dict.fromkeys(part for own in drawing.bars.values() for part in own))
        return ["", *parts], [
            [bar, *(_figure(own[part]) if part in own else "" for part in parts)] for bar, own in drawing.bars.items()
        ]
    if isinstance(drawing, Stack):
        columns = {label: dict(zip(drawing.steps, values, strict=True)) for label, values in drawing.parts.items()}
    else:
        columns = {curve.label: dict(curve.points) for curve in drawing.curves}
    steps = sorted({step for own in columns.values() for step in own})
    rows = []
    for step in _some(steps):
        values = (own.get(step) for own in columns.values())
        rows.append([f"{step:g}", *("" if value is None else _figure(value, share=drawing.share) for value in values)])
    return ["step", *columns], rows


def _some(steps: Sequence[float]) -> list[float]:
    if len(steps) <= _TABLE_ROWS:
        return list(steps)
    every = (len(steps) - 1) / (_TABLE_ROWS - 1)
    return [steps[round(every * number)] for number in range(_TABLE_ROWS)]


def _figure(value: float, *, share: bool = False) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.1%}" if share else f"{value:.4g}"
