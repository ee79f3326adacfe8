"""Pages and docstrings become HTML: formulas as MathML, examples as code, fences without their flags."""

from pathlib import Path

import pytest
import yaml
from markdown import markdown

CONFIG = Path(__file__).parents[2] / "mkdocs.yml"


def html(text: str) -> str:
    """A page, by the extensions of the site; its snippets are not included."""
    listed = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["markdown_extensions"]
    given = {}
    for one in listed:
        given |= one if isinstance(one, dict) else {one: {}}
    given.pop("pymdownx.snippets")
    return markdown(text, extensions=list(given), extension_configs=given)


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("so $r_i$ is", "inline"),
        ("$$r_i$$", "block"),
        (".. math:: r_i", "block"),
        (".. math::\n    r_i,\n    s_i\n\nafter", "block"),
        ("the answers to :math:`r_i` earn", "inline"),
    ],
)
def test_a_formula_is_mathml(text: str, display: str) -> None:
    shown = html(text)
    assert f'<math display="{display}"' in shown
    assert "<msub><mi>r</mi><mi>i</mi></msub>" in shown
    assert not any(mark in shown for mark in ("$", "math::", ":math:", "\\("))


def test_the_text_around_a_formula_stays() -> None:
    assert html("so $r$ is it").startswith("<p>so <math")
    assert html("so $r$ is it").endswith("</math> is it</p>")
    assert "<p>after</p>" in html(".. math::\n    r_i\n\nafter")


def test_dollars_and_directives_in_code_are_left_alone() -> None:
    shown = html("```text\n.. math:: r_i\n>>> $x$ :func:`f`\n```\n\nand `$OUT`")
    assert ".. math:: r_i" in shown
    assert "$x$ :func:`f`" in shown.replace("&gt;", ">")
    assert "<code>$OUT</code>" in shown


def test_an_example_is_code_with_its_output() -> None:
    shown = html("Example:\n\n>>> f(1)\n2\n\nText.")
    assert "blockquote" not in shown
    assert '<div class="highlight">' in shown
    assert shown.count("<p>Text.</p>") == 1


@pytest.mark.parametrize("role", ["func", "class", "mod", "meth"])
def test_a_reference_is_shown_as_code(role: str) -> None:
    assert html(f"See :{role}:`~a.b`.") == "<p>See <code>a.b</code>.</p>"


def test_the_flag_of_a_fence_is_not_shown() -> None:
    shown = html("```bash parse-only\nedge-grpo train\n```\n")
    assert '<div class="highlight">' in shown
    assert "parse-only" not in shown
