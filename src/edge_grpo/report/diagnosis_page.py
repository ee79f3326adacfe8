"""The page of a diagnosis: one HTML file without scripts or external resources, whose template escapes all text."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.text import visible
from edge_grpo.report.diagnosis import Diagnosis, Span, Tally
from edge_grpo.report.groups import Kind
from edge_grpo.report.policy import digest
from edge_grpo.report.remedies import Remedy
from edge_grpo.runs.durable import write_whole

__all__ = ["diagnosis_page", "write_page"]

_EXCERPT = 1000  # characters of a prompt
_LEFT, _WIDTH, _ROW = 66, 290, 22  # of the bars, pixels


@dataclass(frozen=True)
class _Part:
    """One kind's share of a bar: its style class, place and width in pixels, and what it says."""

    style: str
    x: float
    width: float
    told: str


@dataclass(frozen=True)
class _Bar:
    """The kinds of groups of a step or range of steps."""

    label: str
    y: int
    parts: Sequence[_Part]


def diagnosis_page(
    found: Diagnosis, spans: Sequence[Span], remedies: Sequence[Remedy], *, title: str, prompts: int
) -> str:
    """The page as HTML.

    Args:
        found: the diagnosis.
        spans: its steps, or ranges of them, as rows of the table.
        remedies: what would recover how much.
        title: what was diagnosed.
        prompts: how many always-dead prompts to list at most.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - only pages need it
    from markupsafe import Markup  # noqa: PLC0415

    folder = files("edge_grpo.report")
    style = folder.joinpath("diagnosis.css").read_text(encoding="utf-8")
    world = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    world.filters |= {
        "whole": lambda value: f"{value:,.0f}",
        "number": lambda value: f"{value:,.1f}",
        "percent": lambda value: f"{value:.1%}",
        "style": _style,
        "visible": visible,
        "excerpt": lambda text: text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…",
    }
    steps = [(str(span), span.tally) for span in spans if span.first is not None]
    page = world.from_string(folder.joinpath("diagnosis.html").read_text(encoding="utf-8"))
    return page.render(
        title=title,
        style=Markup(style),  # noqa: S704 - the package's own file
        style_hash=digest(style),
        found=found,
        remedies=remedies,
        kinds=[kind for kind in Kind if found.overall.kinds[kind]],
        ranges=len(spans),
        rows=[*steps, ("all", found.overall)],
        bars=[
            _bar(label, place * _ROW + 3, tally)
            for place, (label, tally) in enumerate(steps or [("all", found.overall)])
        ],
        prompts=found.always_dead[:prompts],
    )


def write_page(
    path: Path, found: Diagnosis, spans: Sequence[Span], remedies: Sequence[Remedy], *, title: str, prompts: int
) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = diagnosis_page(found, spans, remedies, title=title, prompts=prompts)
    try:
        write_whole(path, text.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        raise ConfigError(f"--html: {path} cannot be written ({error.strerror})") from None


def _bar(label: str, y: int, tally: Tally) -> _Bar:
    parts = []
    x = float(_LEFT)
    for kind in Kind:
        width = _WIDTH * tally.share(kind)
        if width:
            parts.append(_Part(_style(kind), round(x, 1), round(width, 1), f"{kind} {tally.share(kind):.1%}"))
        x += width
    return _Bar(label, y, parts)


def _style(kind: Kind) -> str:
    return str(kind).replace(" ", "-")
