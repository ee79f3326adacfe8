"""Check a built documentation site: everything it shows is in it, and every link within it leads somewhere.

python website/site_check.py build/site
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
"""What a browser loads on its own, and the attribute that says from where; ``link`` is treated apart."""

NOT_LOADED = {"canonical", "next", "prev", "alternate", "author"}
"""Kinds of ``link`` that only name something."""

STYLE_LOADS = re.compile(r"(?:@import\s+|url\(\s*)[\"']?((?:https?:)?//[^\"')\s]+)")
UNREAD = re.compile(r"\.\. math::|:(?:func|class|mod|meth|math):`|\\(?:frac|operatorname|sum|pi)(?![a-z])")


@dataclass
class Page(HTMLParser):
    """What a page loads, links to and can be linked at, and its text outside of code."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    text: list[str] = field(default_factory=list)
    code: int = 0

    def __post_init__(self) -> None:
        """Set up the parser itself."""
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element loads or names."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.code += tag in {"code", "pre", "script", "style"}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in NOT_LOADED:
            self.loads.append(given.get("href", ""))
        elif given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])

    def handle_endtag(self, tag: str) -> None:
        """Leave code."""
        self.code -= tag in {"code", "pre", "script", "style"}

    def handle_data(self, data: str) -> None:
        """Keep text that is not code."""
        if not self.code:
            self.text.append(data)


def complaints(site: Path) -> Iterator[str]:
    """What is wrong with a site, a line each."""
    pages = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages; build the site first"
    for name, page in pages.items():
        yield from (f"{name}: loads {one} from elsewhere" for one in page.loads if urlsplit(one).netloc)
        yield from (f"{name}: {one} is not in the site" for one in page.loads if missing(site, name, one))
        if unread := UNREAD.search("".join(page.text)):
            yield f"{name}: shows {unread[0]!r} as text; see website/site_markdown.py"
        if name != "404.html":  # it is served at any address, so its links are absolute
            yield from (f"{name}: the link {one} leads nowhere" for one in page.links if dead(pages, site, name, one))
    for path in sorted(site.rglob("*.css")):
        loaded = STYLE_LOADS.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)}: loads {one} from elsewhere" for one in loaded)


def read(path: Path) -> Page:
    """A page, parsed."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def missing(site: Path, name: str, target: str) -> bool:
    """Whether a page needs a file of the site that is not there."""
    parts = urlsplit(target)
    if parts.netloc or parts.scheme == "data" or name == "404.html":
        return False
    return not (site / unquote(urljoin(f"/{name}", parts.path)).lstrip("/")).is_file()


def dead(pages: Mapping[str, Page], site: Path, name: str, link: str) -> bool:
    """Whether a link within the site has no page, file or anchor at its end."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    place = unquote(urljoin(f"/{name}", parts.path)).lstrip("/") if parts.path else name
    place = f"{place}index.html" if not place or place.endswith("/") else place
    if place in pages:
        return bool(parts.fragment) and unquote(parts.fragment) not in pages[place].anchors
    return not (site / place).is_file()


def main(folder: str) -> int:
    """Print what is wrong; the exit status says whether anything is."""
    found = list(complaints(Path(folder)))
    print("\n".join([*found, f"{folder}: {len(found)} complaints" if found else f"{folder}: complete, no dead links"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
