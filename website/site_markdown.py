"""A Python-Markdown extension with what the documentation's pages and docstrings need to become a site.

Formulas turn into MathML, which browsers draw without a script or a font from elsewhere. They are written ``$...$`` and
``$$...$$`` in pages, where ``pymdownx.arithmatex`` finds them, and as ``.. math::`` blocks in docstrings. The word
``parse-only`` of a fence, which is for ``tests/test_docs.py``, is left out.
"""

import re
import xml.etree.ElementTree as etree
from collections.abc import Iterator

from latex2mathml.converter import convert_to_element
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

FENCE = re.compile(r"^(\s*`{3,}\w+) parse-only$")
BLOCK = re.compile(r"^(?P<indent>[ ]*)\.\. math::[ ]*(?P<rest>.*)$")


class Notation(Preprocessor):
    """Rewrites the notations that the other extensions do not read."""

    def run(self, lines: list[str]) -> list[str]:
        return list(dollars([FENCE.sub(r"\1", line) for line in lines]))


def dollars(lines: list[str]) -> Iterator[str]:
    """The lines, with every ``.. math::`` block between double dollars."""
    waiting = list(reversed(lines))
    while waiting:
        line = waiting.pop()
        start = BLOCK.match(line)
        if not start:
            yield line
            continue
        indent = start["indent"]
        body = [start["rest"].strip()] if start["rest"].strip() else []
        while waiting and (not waiting[-1].strip() or waiting[-1].startswith(indent + " ")):
            if not waiting[-1].strip() and body:
                break
            body.append(waiting.pop().strip())
        yield from ("", f"{indent}$${' '.join(part for part in body if part)}$$", "")


class Formulas(Treeprocessor):
    """Replaces what arithmatex marked with MathML."""

    def run(self, root: etree.Element) -> None:
        for parent in root.iter():
            for at, child in enumerate(parent):
                if "arithmatex" in (child.get("class") or "").split():
                    parent[at] = mathml(child.text or "", child.tail)


def mathml(tex: str, tail: str | None) -> etree.Element:
    r"""The element ``<math>`` of a formula between ``\(`` and ``\)`` or ``\[`` and ``\]``."""
    display = "block" if tex.lstrip().startswith(r"\[") else "inline"
    element: etree.Element = convert_to_element(tex.strip()[2:-2], display=display)
    element.tail = tail
    return element


class FormulaExtension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Notation(md), "notation", 28)
        md.treeprocessors.register(Formulas(md), "formulas", 5)


def makeExtension(**settings: object) -> FormulaExtension:
    return FormulaExtension(**settings)
