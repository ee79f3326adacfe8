"""The page of a diagnosis: self-contained, its style the only thing that its policy allows, all text escaped."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report.test_diagnosis import MIXED, made, rollouts

from edge_grpo.report.diagnosis import diagnose, in_ranges
from edge_grpo.report.diagnosis_page import diagnosis_page
from edge_grpo.report.remedies import remedies
from edge_grpo.report.sources import Found

VOID = {"meta"}


class Checked(HTMLParser):
    """Checks that tags close in order and load or run nothing, and that every table has a caption."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.labels = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        assert tag not in ("script", "link", "img", "iframe", "object", "use", "image", "form")
        assert not {"href", "src", "style"} & names
        assert not [name for name in names if name.startswith("on")]
        self.labels += tag == "svg" and bool({"aria-label", "aria-hidden"} & names)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checked:
    parser = Checked()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert "url(" not in page
    assert "http:" not in page
    assert not re.search(r"\b(nan|inf|None)\b", page)
    assert parser.seen.count("table") == parser.seen.count("caption")
    assert parser.seen.count("svg") == parser.labels
    return parser


def test_everything_is_on_the_page() -> None:
    found = made(MIXED)
    page = diagnosis_page(found, found.spans, remedies(found), title="a <b> & c", prompts=2)
    parser = checked(page)
    assert parser.seen.count("table") == 3
    assert "<h1>Dead groups in a &lt;b&gt; &amp; c</h1>" in page
    assert "5 of 7 groups are dead" in page
    assert "21 completions in 7 groups of 3, from 1 file" in page
    assert "Wasted tokens: 150 of 210" in page
    assert page.count('<th scope="row">') == len(found.spans) + 1 + len(remedies(found))
    assert "The 2 seen most often of 3" in page
    assert all(one.assumption in page for one in remedies(found) if not one.missing)


def test_only_its_own_style_is_allowed() -> None:
    found = made(MIXED)
    page = diagnosis_page(found, found.spans, [], title="", prompts=0)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"content=\"default-src 'none'; style-src 'sha256-{digest}'\"" in page


def test_bars_fill_their_width() -> None:
    found = made(MIXED)
    page = diagnosis_page(found, found.spans, [], title="", prompts=0)
    bars = [float(width) for width in re.findall(r'width="([\d.]+)" height="16"', page)]
    assert sum(bars) == pytest.approx(290 * len(found.spans), abs=1)


def test_a_run_without_steps_or_live_groups() -> None:
    found = made([(None, "a", [0.0, 0.0])])
    checked(diagnosis_page(found, found.spans, remedies(found), title="x", prompts=5))


def test_names_of_columns_and_notes_hide_nothing() -> None:
    rows = rollouts(MIXED)
    found = diagnose(replace(rows, columns=[Found("reward", "a\u202eb", "given")], notes=["first: x\u202ey.jsonl"]))
    page = diagnosis_page(found, found.spans, [], title="t\u202e", prompts=0)
    assert "\u202e" not in page
    assert "column &#39;a[U+202E]b&#39;" in page
    assert "first: x[U+202E]y.jsonl" in page


def test_a_long_run_has_rows_for_ranges_or_for_every_step() -> None:
    found = made([(step, f"p{step}", [0.0, float(step % 2)]) for step in range(1, 26)])
    short = diagnosis_page(found, in_ranges(found.spans), [], title="", prompts=0)
    assert "25 steps in 20 ranges" in short
    assert short.count('<th scope="row">') == 21
    whole = diagnosis_page(found, found.spans, [], title="", prompts=0)
    assert "ranges" not in whole
    assert whole.count('<th scope="row">') == 26
