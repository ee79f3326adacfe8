"""What each setting means and where it comes from, read from the docstrings that explain the settings classes.

A setting is explained in one of five places, the first that is there: a string below its declaration; the
``Attributes:`` of its class; the sentences of the class's docstring that name it in double backticks; the string below
the type that it is declared with; a property of its name in one of the protocols that several methods share.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache

from edge_grpo.methods import base

__all__ = ["Meaning", "meanings", "plain", "source_of", "summary_of"]

_PACKAGE = base.__name__.rpartition(".")[0]
_SHARED = ("_fields", "_rewarded", "_discriminative", "_policy_gradient", "_edge", "base")
_HEADINGS = re.compile(r"^(Attributes|Source|Args|Raises|Returns|Example):", re.M)
_ENTRY = re.compile(r"^    (\w+): ", re.M)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
_DEFINED = re.compile(r"(?P<names>``\w+``(?:(?:, | and |, and )``\w+``)*)(?: \([^)]*\))?(?:, [^:.]*)?: ")


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a setting means, as plain text, and the paper or software that it comes from (empty = this project)."""

    text: str
    source: str = ""


def meanings(cls: type) -> dict[str, Meaning]:
    """The meaning of every setting of a settings class that has one.

    Args:
        cls: the class; its ancestors that are settings classes are read, too.
    Example:
        >>> from edge_grpo.config.sections import LoraSettings
        >>> meanings(LoraSettings)["rank"].text
        "`rank` 0 trains all weights. An adapter's update is multiplied by `alpha` / `rank`."
    """
    found: dict[str, Meaning] = {}
    for own in (one for one in cls.__mro__ if dataclasses.is_dataclass(one)):
        names = list(inspect.get_annotations(own))
        declared = _declared(own)
        told = _attributes(own) or _sentences(_prose(own), names)
        for name in names:
            below, kind = declared.get(name, ("", ""))
            text = below or told.get(name, "") or _types().get(kind, "") or _property(own, name)
            if text and name not in found:
                before, _, after = text.partition(" Source: ")
                found[name] = Meaning(plain(before), plain(after) or source_of(own))
    return found


def summary_of(cls: type) -> str:
    """The first line of a class's docstring."""
    return plain((inspect.getdoc(cls) or "").partition("\n")[0])


def source_of(cls: type) -> str:
    """The paper or software under ``Source:`` in a class's docstring; empty = none."""
    return plain(_section(inspect.getdoc(cls) or "", "Source"))


def plain(text: str) -> str:
    r"""Text without line breaks and the markup of Sphinx.

    Example:
        >>> plain("a weight of ``0``\n    or :math:`x^2`")
        'a weight of `0` or x^2'
    """
    bare = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(bare.replace("``", "`").split())


def _section(doc: str, heading: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^{heading}:", doc, re.M)
    rest = doc[found.end() :] if found else ""
    follows = _HEADINGS.search(rest)
    return rest[: follows.start()] if follows else rest


def _prose(cls: type) -> list[str]:
    """The paragraphs of a docstring before its sections, without formulas."""
    doc = inspect.getdoc(cls) or ""
    heading = _HEADINGS.search(doc)
    paragraphs = re.split(r"\n\s*\n", doc[: heading.start()] if heading else doc)
    return [" ".join(each.split()) for each in paragraphs if not each.startswith((".. math::", " "))]


def _attributes(cls: type) -> dict[str, str]:
    """The entries of an ``Attributes:`` section."""
    section = _section(inspect.getdoc(cls) or "", "Attributes")
    parts = _ENTRY.split(section)[1:]
    return {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _sentences(paragraphs: list[str], names: list[str]) -> dict[str, str]:
    """The definitions of settings (``name``: ...), or else the sentences that mention them."""
    defined: dict[str, list[str]] = {}
    mentioned: dict[str, list[str]] = {}
    aside: dict[str, list[str]] = {}  # in the definition of another one
    named = rf"``(?:{'|'.join(names)})``"
    for paragraph in paragraphs:
        current: list[str] = []
        for sentence in _SENTENCE.split(paragraph):
            start = _DEFINED.match(sentence)
            about = [name for name in re.findall(r"``(\w+)``", start["names"]) if name in names] if start else []
            if start and about:
                current = about if not sentence[start.end() :].startswith("see ``_") else []
                for name in current:
                    defined.setdefault(name, []).append(sentence[start.end() :] if len(about) == 1 else sentence)
                for name in names:
                    aside.setdefault(name, []).extend([sentence] if f"``{name}``" in sentence[start.end() :] else ())
                continue
            clauses = _clauses(sentence, named)
            if not any(re.search(rf"``{name}(``|=)", sentence) for name in names):
                for name in current:
                    defined[name].append(sentence)
                continue
            current = []
            for name in names:
                own = [clause for clause in clauses if re.search(rf"``{name}(``|=)", clause)]
                mentioned.setdefault(name, []).extend(map(_sentence, own))
    found = {name: parts for told in (aside, mentioned, defined) for name, parts in told.items() if parts}
    return {name: _sentence(" ".join(parts)) for name, parts in found.items()}


def _clauses(sentence: str, named: str) -> list[str]:
    """The parts of a sentence that start with a setting, of which none ends inside parentheses."""
    found: list[str] = []
    for part in re.split(rf";\s+(?={named})", sentence):
        if found and found[-1].count("(") > found[-1].count(")"):
            found[-1] += f"; {part}"
        else:
            found.append(part)
    return found


def _sentence(text: str) -> str:
    first = text if text[:1] in "`" else text[:1].upper() + text[1:]
    return first if first.endswith((".", "!", "?")) else f"{first}."


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))


def _declared(cls: type) -> dict[str, tuple[str, str]]:
    """For each setting that a class declares: the string below it, and the name of its type."""
    for node in ast.walk(_tree(cls.__module__)):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            return {name: (text, kind) for name, text, kind in _assigned(node.body)}
    return {}


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """Names assigned in a block, each with the string below it and the last part of its type's name."""
    for node, below in zip(body, [*body[1:], None], strict=True):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        told = " ".join(inspect.cleandoc(text).split()) if isinstance(text, str) else ""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, told, ast.unparse(node.annotation).rpartition(".")[2]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, told, ""


@cache
def _types() -> Mapping[str, str]:
    """The strings below the types that methods declare settings with."""
    modules = [importlib.import_module(f"{_PACKAGE}.{name}").__name__ for name in _SHARED]
    return {name: text for module in modules for name, text, _ in _assigned(_tree(module).body) if text}


def _property(cls: type, name: str) -> str:
    """The docstring of the property ``name`` in a protocol of the modules that a class is built from."""
    imports = [node for node in ast.walk(_tree(cls.__module__)) if isinstance(node, ast.ImportFrom)]
    used = [alias.name for node in imports if node.module == _PACKAGE for alias in node.names]
    return next((text for module in used if (text := _properties().get((module, name)))), "")


@cache
def _properties() -> Mapping[tuple[str, str], str]:
    """The docstrings of the properties in the protocols that methods share, by module and name."""
    found: dict[tuple[str, str], str] = {}
    for own in _SHARED:
        module = importlib.import_module(f"{_PACKAGE}.{own}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if getattr(cls, "_is_protocol", False) and cls.__module__ == module.__name__:
                properties = {name: one for name, one in vars(cls).items() if isinstance(one, property)}
                more = _sentences(_prose(cls), list(properties))
                for name, one in properties.items():
                    text = " ".join((inspect.getdoc(one) or "").split())
                    source = f" Source: {source}" if (source := source_of(cls)) else ""
                    found[own, name] = " ".join(filter(None, (text, more.get(name, "")))) + source
    return found
