"""The report of runs: one HTML file that needs nothing else, and that nothing in it can make do anything.

Rollouts are data: the page carries them compressed, and its one script shows them as text. The content security policy
allows that script and the style sheet by their digests, and nothing else: no requests, no frames, no inline handlers.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from edge_grpo.base.text import visible
from edge_grpo.report.about import about
from edge_grpo.report.arms import Arm, arms_of
from edge_grpo.report.browser import Carried, carry
from edge_grpo.report.charts import Chart, draw, table_of_values
from edge_grpo.report.figures import charts
from edge_grpo.report.outcomes import DeadProblem, dead_prompts, outcomes, shown
from edge_grpo.report.pictures import pictures_in
from edge_grpo.report.policy import digest
from edge_grpo.report.run import Run
from edge_grpo.report.tokens import SHADES, tokenizer_of
from edge_grpo.runs.completions import rollouts

__all__ = ["MAX_BYTES", "page"]

MAX_BYTES: Final = 4_900_000
"""The size of a page, at most, unless its charts alone are larger."""

_LEAST = 0.004  # of the size is for rollouts, however large the charts are
_MOST_DEAD = 200  # prompts listed


@dataclass(frozen=True)
class _Section:
    heading: str
    name: str
    charts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Dead:
    """The always-dead prompts of a run that are listed, with their texts."""

    run: Run
    listed: Sequence[tuple[DeadProblem, str]]
    total: int
    sampled: int

    @property
    def told(self) -> str:
        """A sentence about those that are not listed."""
        again = sum(one.seen > 1 for one, _ in self.listed)
        seen = f" {again:,} of them were sampled more than once." if again else " Each was sampled only once."
        most = f" {len(self.listed):,} of them are listed." if self.total > len(self.listed) else ""
        return f"{self.total:,} of {self.sampled:,} sampled problems never gave a group with a signal.{seen}{most}"


def page(runs: Sequence[Run], *, renew_s: int = 0, max_bytes: int = MAX_BYTES) -> str:
    """The report of one or more runs as HTML.

    Args:
        runs: those that differ in nothing but their seeds are shown as one, with intervals.
        renew_s: the browser loads the page again after so many seconds; 0 = never.
        max_bytes: the size of the page; rollouts that do not fit are left out, and counted.
    Raises:
        ConfigError: a run is given twice.
        DataError: a rollout file cannot be read.
    """
    arms = arms_of(runs)
    sections = _sections(arms)
    dead = [_dead(run) for run in runs if run.completions]
    content = {
        "runs": runs,
        "arms": arms,
        "about": [(run, about(run)) for run in runs],
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "tiles": _tiles(arms),
        "outcomes": outcomes(arms),
        "sections": sections,
        "dead": dead,
        "renew_s": renew_s,
        "shades": SHADES,
        "carried": {},
        "notes": [note for run in runs for note in run.notes],
    }
    room = max_bytes - len(_rendered(content).encode())
    with_rollouts = [run for run in runs if run.completions]
    carried: dict[str, Carried] = {}
    notes = [note for run in runs for note in run.notes]
    for run in with_rollouts:
        pictures, why = pictures_in(run)
        notes += [why] if why else []
        size = max(int(_LEAST * max_bytes), room // len(with_rollouts))
        carried[run.name] = carry(run, max_bytes=size, tokenizer=tokenizer_of(run), pictures=pictures)
    return _rendered({**content, "carried": carried, "notes": notes})


def _sections(arms: Sequence[Arm]) -> list[_Section]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for number, (heading, chart) in enumerate(charts(arms)):
        found.setdefault(heading, []).append(_drawn(chart, f"f{number}"))
    return [_Section(heading, heading.lower(), own) for heading, own in found.items()]


def _drawn(chart: Chart, name: str) -> dict[str, Any]:
    heads, rows = table_of_values(chart.drawing)
    return {"title": chart.title, "says": chart.says, "svg": draw(chart, name), "heads": heads, "rows": rows}


def _tiles(arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    """The key figures of a single arm: a title, the value, and where it came from."""
    if len(arms) > 1:
        return []
    arm = arms[0]
    told = {one.title: shown(one.means[0], one.form) for one in outcomes(arms)}
    first = [own[0][1] for run in arm.runs if (own := run.series("eval/accuracy"))]
    wanted = {
        "held-out accuracy, last": f"from {sum(first) / len(first):.1%} at the start{_over_problems(arm)}"
        if first
        else "",
        "groups without a signal, as sampled": "mean over all steps",
        "groups without a signal, after corrections": "mean over all steps",
        "always-dead prompts, of those sampled twice or more": "no group with a signal as sampled",
        "tokens sampled": f"{told.get('tokens per second, median', '?')} per second",
    }
    return [(title, told[title], note) for title, note in wanted.items() if title in told]


def _over_problems(arm: Arm) -> str:
    """The interval of a single run's held-out accuracy, which is over problems."""
    ends = [arm.runs[0].series(f"eval/accuracy_{end}") for end in ("low", "high")]
    return f"; {ends[0][-1][1]:.1%} to {ends[1][-1][1]:.1%} over problems" if len(arm.runs) == 1 and all(ends) else ""


def _dead(run: Run) -> _Dead:
    found = dead_prompts(run)
    names = {one.problem for one in found[:_MOST_DEAD]}
    table = rollouts(run.path, columns=("problem", "prompt"))
    texts = dict(
        pair for pair in zip(table["problem"].to_pylist(), table["prompt"].to_pylist(), strict=True) if pair[0] in names
    )
    listed = [(one, texts.get(one.problem) or "") for one in found[:_MOST_DEAD]]
    return _Dead(run, listed, len(found), len({group.problem for group in run.drawn if group.layer == 1}))


def _rendered(content: Mapping[str, Any]) -> str:
    import jinja2  # noqa: PLC0415 - needed here only

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible}
    own = {
        name: files("edge_grpo.report").joinpath(f"page.{name}").read_text("utf-8") for name in ("css", "js", "html")
    }
    policy = (
        f"default-src 'none'; script-src '{digest(own['js'])}'; style-src '{digest(own['css'])}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    html: str = environment.from_string(own["html"]).render(css=own["css"], js=own["js"], policy=policy, **content)
    return html
