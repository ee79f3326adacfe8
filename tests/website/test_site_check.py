"""The check of a built site finds what a browser would load from elsewhere, dead links, and unread notation."""

from pathlib import Path

import pytest
from site_check import complaints, main

GOOD = {
    "index.html": '<link rel="stylesheet" href="a.css"><a href="sub/b.html#there">b</a><a href="https://x.org">x</a>',
    "sub/b.html": '<img src="../c.png"><h2 id="there">b</h2><a href="..">up</a><code>:func:`f`</code>'
    '<a href="#there">t</a>',
    "a.css": "body { background: url(c.png) }",
    "c.png": "",
}


def site(folder: Path, **changed: str) -> Path:
    for name, text in (GOOD | changed).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_whole_site_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(site(tmp_path))) == 0
    assert "no dead links" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js from elsewhere"),
        ('<script src="//cdn.example/x.js"></script>', "loads //cdn.example/x.js from elsewhere"),
        ('<link rel="preconnect" href="https://fonts.example">', "loads https://fonts.example from elsewhere"),
        ('<img src="https://img.example/x.png">', "loads https://img.example/x.png from elsewhere"),
        ('<img src="gone.png">', "gone.png is not in the site"),
        ('<a href="gone.html">x</a>', "the link gone.html leads nowhere"),
        ('<a href="sub/b.html#gone">x</a>', "the link sub/b.html#gone leads nowhere"),
        ("<p>.. math:: x</p>", "as text"),
        (r"<p>\frac12</p>", "as text"),
        ("<p>See :func:`f`.</p>", "as text"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, text: str, said: str) -> None:
    (found,) = complaints(site(tmp_path, **{"index.html": text}))
    assert found.startswith("index.html: ")
    assert said in found


def test_styles_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    (found,) = complaints(site(tmp_path, **{"a.css": '@import "https://fonts.example/f.css";'}))
    assert found == "a.css: loads https://fonts.example/f.css from elsewhere"


def test_an_empty_folder_is_no_site(tmp_path: Path) -> None:
    assert main(str(tmp_path)) == 1
