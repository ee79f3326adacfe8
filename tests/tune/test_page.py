"""The page: every panel, every trial, the next one; no external resources; no text interpreted as markup."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tune.spaces import TEXT, searched, space_of

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.page import brief, page
from edge_grpo.tune.record import Trial
from edge_grpo.tune.space import Space
from edge_grpo.tune.suggest import Suggestion, suggest

VOID = {"meta"}


class Checked(HTMLParser):
    """Counts tags and checks that they close in order and load nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert tag not in ("script", "link", "img", "iframe", "object", "use", "image")
        assert not {"href", "src", "xlink:href"} & {name for name, _ in attrs}
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> dict[str, int]:
    parser = Checked()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert "url(" not in text
    assert "http" not in text
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    return parser.counts


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return space_of(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def trials(space: Space) -> list[Trial]:
    found = searched(space, 4)
    return [*found, Trial(5, {**found[0].settings, "train.passes": 3}, "failed", reason="<script>alert(1)</script>")]


@pytest.mark.parametrize(("decomposed", "rows"), [(True, 3), (False, 1)])
def test_a_panel_for_the_whole_and_each_part_along_each_setting(
    space: Space, trials: list[Trial], decomposed: bool, rows: int
) -> None:
    then = suggest(space, trials, number=6, decomposed=decomposed)
    text = page(space, trials, then, decomposed=decomposed, title="a <b> & c")
    counts = checked(text)
    assert counts["svg"] == 4 * rows
    assert counts["polygon"] == 3 * rows  # of the ranges; categories have boxes
    assert counts["rect"] == 3 * rows
    assert counts["circle"] == 4 * 4 * rows  # one dot per finished trial
    assert text.count('stroke="var(--next)"') == 4 * rows
    assert "<script>" not in text
    assert "failed: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in text
    assert f"expected {then.mean:.4f} &plusmn; {then.deviation:.4f}" in text
    assert text.count('<tr class="best">') == 1


def test_pages_without_a_posterior_or_a_next_trial(space: Space, trials: list[Trial]) -> None:
    for known in ([], trials[:1], trials[4:]):
        text = page(space, known, suggest(space, known, number=len(known) + 1))
        assert "There is no posterior before two trials have finished" in text
        assert "svg" not in checked(text)
    assert "Every point of the space has been tried" in page(space, trials, None)


def test_equal_scores_are_no_trouble(space: Space, trials: list[Trial]) -> None:
    same = [Trial(t.number, t.settings, "finished", {"3": 0.0, "4": 0.0}, 0.0) for t in trials]
    assert checked(page(space, same, Suggestion(dict(trials[0].settings), "initial")))["svg"] == 12


def test_values_that_are_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    text = TEXT.replace(
        "train.passes: {type: integer, low: 1, high: 4}",
        "data.system_prompt: {type: categorical, values: ['<i>', '\"']}",
    ).replace("weights: {3: 0.5, 4: 2}", "weights: {'<u>': 1, \"'\": 1}")
    space = space_of(tmp_path, text)
    point = suggest(space, [], number=1).point
    known = [
        Trial(n, {**point, "data.system_prompt": value}, "finished", {"<u>": 0.1 * n, "'": 0.2}, 0.1 * n + 0.2)
        for n, value in enumerate(["<i>", '"', "<i>"], 1)
    ]
    counts = checked(page(space, known, Suggestion(point, "initial")))
    assert "i" not in counts
    assert "u" not in counts


def test_the_template_engine_is_part_of_the_extra(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"pip install 'edge-grpo\[tune\]'"):
        page(space, [], None)


def test_brief() -> None:
    assert [brief(value) for value in (0.25, 1e-5, False, 3, "all")] == ["0.25", "1e-05", "false", "3", "all"]
