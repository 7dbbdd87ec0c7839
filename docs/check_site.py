#!/usr/bin/env python
"""Check a built site: links, anchors, nothing from outside, the navigation, and the names of the API. Standard library alone.

python docs/check_site.py site
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from generators import api

__all__ = ["check"]

DOCS = Path(__file__).resolve().parent
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
    "object": "data",
}
"""The attribute by which an element loads a file; `a` links to one."""


class Page(HTMLParser):
    """What a page's elements name.

    Attributes:
        ids: the anchors.
        links: the targets of links.
        loads: the addresses of files that the page shows or runs.
        sections: the words after each heading of level 2, by the heading's anchor and by those of empty anchors right before it.
        signatures: the words in signatures, likewise.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.signatures: dict[str, list[str]] = {}
        self._open: list[str] = []  # anchors of the section that is read now
        self._waiting: list[str] = []  # empty anchors that belong to the next one
        self._pre = 0
        # Most elements are those that colour code: without them a page is read in a third of the time.
        self.feed(re.sub(r'</span>|<span(?: (?:class|title)="[^"]*")*>', "", path.read_text(encoding="utf-8")))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if anchor := values.get("id"):
            self.ids.add(anchor)
        if tag == "a":
            self.links += [values["href"]] if "href" in values else []
            self._waiting += [anchor] if anchor and "href" not in values else []
        elif tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "h2":
            self._open, self._waiting = [*self._waiting, *([anchor] if anchor else [])], []
            for name in self._open:
                self.sections[name], self.signatures[name] = [], []
        self._pre += tag == "pre"
        self.loads += addresses_in_css(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._pre -= tag == "pre"

    def handle_data(self, data: str) -> None:
        for name in self._open:
            self.sections[name] += words(data)
            if self._pre:
                self.signatures[name] += words(data)


def words(text: str) -> list[str]:
    """The words and names of a text, without punctuation."""
    return re.findall(r"\w+", text)


def addresses_in_css(text: str) -> list[str]:
    """What a style sheet loads."""
    return [
        found
        for found in re.findall(r"""(?:url\(|@import\s+)\s*["']?([^"')\s;]+)""", text)
        if not found.startswith("data:")
    ]


def check(site: Path) -> list[str]:
    """Everything that is wrong with a built site, one line each."""
    pages = {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}
    if "index.html" not in pages:
        return [f"{site} holds no index.html: build the site first"]
    return [
        *(fault for name, page in pages.items() for fault in check_links(site, name, page, pages)),
        *check_style_sheets(site),
        *check_navigation(pages),
        *check_api(pages),
    ]


def check_links(site: Path, name: str, page: Page, pages: dict[str, Page]) -> Iterator[str]:
    """Links and files that lead nowhere, and files that are loaded from outside."""
    for address in page.loads:
        if is_outside(address):
            yield f"{name} loads {address} from outside of the site"
    for address in dict.fromkeys([*page.links, *page.loads]):
        if is_outside(address) or address.startswith(("mailto:", "data:")):
            continue
        target, anchor = followed(name, address)
        if (target not in pages and not (site / target).exists()) or target.startswith("../"):
            yield f"{name} links to {address}, which does not exist"
        elif anchor and target in pages and anchor not in pages[target].ids:
            yield f"{name} links to {address}, but {target} has no such anchor"


def followed(name: str, address: str) -> tuple[str, str]:
    """Where a link of a page leads: the file from the site's root, and the anchor or ""."""
    path, _, anchor = unquote(address.partition("?")[0]).partition("#")
    if not path:
        return name, anchor
    if name == "404.html" and path.startswith("/"):  # it is shown at any address, so its links start at the root
        path = path.lstrip("/") or "index.html"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
    return (posixpath.join(target, "index.html") if path.endswith("/") or target == "." else target), anchor


def is_outside(address: str) -> bool:
    """Whether an address leads to another host."""
    return address.startswith(("http://", "https://", "//"))


def check_style_sheets(site: Path) -> Iterator[str]:
    """Style sheets that load from outside, or what does not exist."""
    for path in sorted(site.rglob("*.css")):
        for address in addresses_in_css(path.read_text(encoding="utf-8")):
            if is_outside(address):
                yield f"{path.relative_to(site)} loads {address} from outside of the site"
            elif not (path.parent / unquote(urlsplit(address).path)).exists():
                yield f"{path.relative_to(site)} loads {address}, which does not exist"


def check_navigation(pages: dict[str, Page]) -> Iterator[str]:
    """Pages of docs/ that were not built, or that the navigation does not lead to."""
    linked = {urlsplit(link).path.removeprefix("./") for link in pages["index.html"].links}
    for path in sorted(DOCS.rglob("*.md")):
        name = path.relative_to(DOCS).with_suffix(".html").as_posix()
        if name not in pages:
            yield f"docs/{path.relative_to(DOCS)} was not built"
        elif name not in linked:
            yield f"docs/{path.relative_to(DOCS)} is not in the navigation"


def check_api(pages: dict[str, Page]) -> Iterator[str]:
    """Stubs that are out of date, and public names whose entry is absent or lacks its signature or docstring."""
    for name, text in api.files().items():
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != text:
            yield f"docs/{name} is out of date: run `python docs/generate.py api`"
    for module in api.public_modules():
        page = pages.get(f"reference/api/{module}.html")
        for public in api.public_names(module):
            if page is None or (public.path not in page.sections and not public.is_module):
                yield f"the page of {module} lacks {public.name}"
            elif not public.is_module and not public.is_from_elsewhere:
                yield from check_entry(public, page)


def check_entry(public: api.PublicName, page: Page) -> Iterator[str]:
    """A name whose entry lacks the first sentence of its docstring or a parameter of its signature."""
    node = api.definition_of(public)
    shown, signature = page.sections[public.path], page.signatures[public.path]
    sentence = words(api.docstring_of(public).partition("\n")[0])
    if not sentence or not contains(shown, sentence):
        yield f"the entry of {public.path} lacks the docstring"
    if absent := [name for name in parameters(node) if name not in signature]:
        yield f"the entry of {public.path} lacks the parameters {', '.join(absent)}"


def contains(text: list[str], part: list[str]) -> bool:
    """Whether words stand next to each other in a text."""
    return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


def parameters(node: ast.AST) -> list[str]:
    """The parameters of a function, or of a class's own constructor."""
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    every = node.args
    found = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, [every.vararg, every.kwarg])]
    return [argument.arg for argument in found if argument.arg not in ("self", "cls")]


def main(argv: Sequence[str]) -> int:
    faults = check(Path(argv[0] if argv else "site"))
    print("\n".join(faults) or "No fault found.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
