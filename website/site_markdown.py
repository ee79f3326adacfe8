"""A Python-Markdown extension with what the documentation's pages and docstrings need to become a site.

Formulas turn into MathML, which browsers draw without a script or a font from elsewhere. They are written ``$...$`` and
``$$...$$`` in pages, where ``pymdownx.arithmatex`` finds them, and as ``.. math::`` blocks in docstrings. Examples
(``>>>``) and references (``:func:``) of docstrings are read, too. The word ``parse-only`` of a fence, which is for
``tests/test_docs.py``, is left out. Links of ``CHANGELOG.md``, which a page includes, start from the repository.
"""

import re
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

FENCE = re.compile(r"^\s*(`{3,})")
PARSE_ONLY = re.compile(r"^(\s*`{3,}\w+) parse-only$")
MATH = re.compile(r"^(?P<indent> *)\.\. math::(?P<rest>.*)$")
EXAMPLE = re.compile(r"^(?P<indent> *)>>> ")
ROLE = re.compile(r":(?P<role>func|class|mod|meth|math):`~?(?P<text>[^`]+)`")


def readable(lines: Sequence[str]) -> Iterator[str]:
    """The lines, in the notations that the other extensions read; fenced code is left as it is."""
    fence, at = "", 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if found := FENCE.match(line):
            fence = "" if fence == found[1] else fence or found[1]
        if fence or found:
            yield PARSE_ONLY.sub(r"\1", line)
        elif start := MATH.match(line):
            body, at = _body(lines, at, start["indent"] + " ")
            yield from ("", f"{start['indent']}$${' '.join([start['rest'].strip(), *body]).strip()}$$", "")
        elif start := EXAMPLE.match(line):
            body, at = _body(lines, at - 1, start["indent"])
            yield from ("", "```pycon", *body, "```", "")
        else:
            line = ROLE.sub(lambda role: f"${role['text']}$" if role["role"] == "math" else f"`{role['text']}`", line)
            yield line.replace("](docs/", "](")


def _body(lines: Sequence[str], at: int, indent: str) -> tuple[list[str], int]:
    """The lines from a place on, up to an empty or less indented one, without the indent; and where that is."""
    end = at
    while end < len(lines) and lines[end].strip() and lines[end].startswith(indent):
        end += 1
    return [line[len(indent) :].rstrip() for line in lines[at:end]], end


def mathml(tex: str, tail: str | None) -> Element:
    r"""The element ``<math>`` of a formula between ``\(`` and ``\)`` or ``\[`` and ``\]``."""
    display = "block" if tex.lstrip().startswith(r"\[") else "inline"
    element: Element = convert_to_element(tex.strip()[2:-2], display=display)
    element.tail = tail
    return element


class Notation(Preprocessor):
    """Applies :func:`readable`."""

    def run(self, lines: list[str]) -> list[str]:
        """See above."""
        return list(readable(lines))


class Formulas(Treeprocessor):
    """Replaces what arithmatex marked with MathML."""

    def run(self, root: Element) -> None:
        """See above."""
        for parent in root.iter():
            for at, child in enumerate(parent):
                if "arithmatex" in (child.get("class") or "").split():
                    parent[at] = mathml(child.text or "", child.tail)


class SiteExtension(Extension):
    """Both of them."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the library's name
        """See above; after snippets are included and before fences are read."""
        md.preprocessors.register(Notation(md), "site_notation", 28)
        md.treeprocessors.register(Formulas(md), "site_formulas", 5)


def makeExtension(**settings: object) -> SiteExtension:  # noqa: N802 - the library's name
    """The entry point that Markdown looks for."""
    return SiteExtension(**settings)
