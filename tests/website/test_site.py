"""The documentation's pages are in the navigation, and the site builds without a warning, complete in itself."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from site_check import complaints

from edge_grpo.config.reference import find
from edge_grpo.methods import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, from copies of what it is made of."""
    place = tmp_path_factory.mktemp("site")
    for name in ("docs", "website", "src"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, place)
    (place / "build" / "docs").mkdir(parents=True)
    program = Path(sys.executable).with_name("edge-grpo")
    printed = subprocess.run([program, "settings", "--markdown"], capture_output=True, text=True, check=True).stdout
    (place / "build" / "docs" / "settings.md").write_text(printed, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": "website"}
    build = [Path(sys.executable).with_name("zensical"), "build", "--strict"]
    done = subprocess.run(build, cwd=place, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search(r"warning|griffe", said, re.IGNORECASE), said
    return place / "build" / "site"


def named(tree: object) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from (one for part in tree.values() for one in named(part))
    elif isinstance(tree, list):
        yield from (one for part in tree for one in named(part))


def test_the_navigation_has_every_page_once() -> None:
    listed = sorted(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert listed == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_it_loads_nothing_from_elsewhere_and_has_no_dead_links(site: Path) -> None:
    assert list(complaints(site)) == []


def test_formulas_settings_and_docstrings_are_in_it(site: Path) -> None:
    assert "<math" in (site / "concepts.html").read_text(encoding="utf-8")
    functional = (site / "api" / "functional.html").read_text(encoding="utf-8")
    assert 'id="edge_grpo.functional.advantages.group_normalized"' in functional
    assert functional.count('<math display="block"') > 20
    assert "train.learning_rate" in (site / "settings.html").read_text(encoding="utf-8")
    assert "method.eda.clamp_low" in (site / "settings.html").read_text(encoding="utf-8")
    assert "[Unreleased]" in (site / "changelog.html").read_text(encoding="utf-8")


def test_the_search_knows_the_pages(site: Path) -> None:
    index = (site / "search.js").read_text(encoding="utf-8")
    assert '"location":"concepts.html#why-the-loss-is-0"' in index


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_lists_look_the_same_on_a_code_host_and_on_the_site(path: Path) -> None:
    """The site's Markdown nests by four spaces, and starts a list after an empty line."""
    fence, before, first, wrong = False, "", "", []  # first: of the lines since an empty one
    for line in path.read_text(encoding="utf-8").splitlines():
        fence ^= line.strip().startswith("```")
        first = first if before.strip() else line
        item = re.match(r"( *)([-*]|\d+\.) ", line)
        if item and not fence and (0 < len(item[1]) < 4 or not re.match(r" *([-*]|\d+\.) ", first)):
            wrong.append(line)
        before = line
    assert wrong == []


def test_the_messages_in_troubleshooting_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\"\s*\n\s*[fr]*\"", "", source)
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    shown = [
        message
        for rows in tables
        for row in rows.splitlines()
        for message in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]
    assert len(shown) > 6
    parts = [part.strip(" (:)") for message in shown for part in message.split("...") if part.strip(" (:)")]
    assert [part for part in parts if part not in source] == []


METHOD_PAGES = sorted(path for path in (DOCS / "methods").glob("*.md") if path.stem not in {"index", "decomposed_gp"})


@pytest.mark.parametrize("path", METHOD_PAGES, ids=lambda path: path.stem)
def test_a_method_page_says_when_to_use_it_its_settings_and_what_differs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert {"When to use it", "Settings", "What to watch"} <= set(headings)
    assert any(heading.startswith(("Differences from", "Design choices")) for heading in headings)
    assert "$" in text
    assert "| setting | default | source |" in text


@pytest.mark.parametrize("kind", METHODS)
def test_the_defaults_on_a_method_page_are_those_of_the_method(kind: str) -> None:
    text = (DOCS / "methods" / f"{kind}.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(method\.[\w.]+)` \| `([^`|]*)` \|", text, re.M)
    known = {one.name: one.default for one in find(f"method.{kind}").settings}
    assert {name: yaml.safe_load(value) for name, value in told} == {name: known[name] for name, _ in told}


def test_the_overview_has_every_method_once() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "methods" / "index.md").read_text(encoding="utf-8"), re.M)
    assert sorted(kind for row in rows for kind in re.findall(r"`(\w+)`", row)) == sorted(METHODS)


def test_every_method_has_its_class_and_settings_in_the_api(site: Path) -> None:
    shown = (site / "api" / "method_classes.html").read_text(encoding="utf-8")
    for cls in METHODS.values():
        start = shown.index(f'id="{cls.__module__}.{cls.__qualname__}"')
        signature = re.sub(r"<[^>]+>", "", shown[start : shown.index("</pre>", start)])
        assert all(f"    {field.name}: " in signature for field in dataclasses.fields(cls))
