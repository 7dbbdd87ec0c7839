"""Building blocks of an HTML page in one file: text is escaped unless it was built here, and nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ultravid.evaluation.tables import format_value

__all__ = [
    "Cell",
    "Html",
    "Row",
    "caption",
    "chart_figure",
    "command",
    "element",
    "legend",
    "page",
    "paragraph",
    "section",
    "table",
    "value_cell",
]

_VOID = frozenset({"meta", "img", "br"})

Attributes = Mapping[str, object]
Row = list["Cell | str"]


class Html(str):
    """Text that is markup already; any other text is escaped when an element takes it in."""

    __slots__ = ()


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the text shown.
        value: the number, with all digits, by which the table sorts and which programs read; None: the text itself.
        prose: the text is a sentence and may wrap.
        href: where it links to; "": nowhere.
        left: whether the text is aligned to the left.
    """

    text: str
    value: float | None = None
    prose: bool = False
    href: str = ""
    left: bool = False


def value_cell(value: float, digits: int = 2) -> Cell:
    """A cell with a number; a dash if it is nan."""
    return Cell(format_value(value, digits), value)


def element(name: str, attributes: Attributes | None = None, *children: str) -> Html:
    """``<name attributes>children</name>``; an attribute that is None is left out."""
    given = {key: value for key, value in (attributes or {}).items() if value is not None}
    opening = "".join(f' {key}="{html.escape(str(value), quote=True)}"' for key, value in given.items())
    if name in _VOID:
        return Html(f"<{name}{opening}>")
    inner = "".join(child if isinstance(child, Html) else html.escape(child, quote=False) for child in children)
    return Html(f"<{name}{opening}>{inner}</{name}>")


def paragraph(*children: str) -> Html:
    """A paragraph."""
    return element("p", None, *children)


def caption(*children: str) -> Html:
    """A small paragraph that says what a chart or a table shows and how it was computed."""
    return element("p", {"class": "caption"}, *children)


def command(text: str) -> Html:
    """A command line to copy."""
    return element("pre", {"class": "command"}, text)


def section(identifier: str, title: str, *children: str) -> Html:
    """A part of the page with a heading; the list of contents links to its identifier."""
    return element("section", {"id": identifier}, element("h2", None, title), *children)


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Names with a swatch of their colour.

    Args:
        entries: name and CSS colour of each.
    """
    items = []
    for name, colour in entries:
        swatch = element("span", {"class": "swatch", "style": f"border-color:{colour}"})
        items.append(element("span", None, swatch, name))
    return element("div", {"class": "legend"}, *items)


def chart_figure(title: str, chart: Html, text: str) -> Html:
    """A chart with its title and explanation below it."""
    return element("figure", None, chart, element("figcaption", None, element("b", None, f"{title}. "), text))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell | str]], identifier: str | None = None, kind: str = ""
) -> Html:
    """A table that sorts by a column when its heading is clicked; the first column is text, the others are numbers.

    Args:
        headers: names of the columns.
        rows: their cells.
        identifier: the identifier of the table.
        kind: a further class: ``many`` wraps long headings, ``hashes`` is small and of one width.
    """
    head = element("tr", None, *(element("th", {"scope": "col"}, name) for name in headers))
    body = [element("tr", None, *(_cell(cell, column) for column, cell in enumerate(row))) for row in rows]
    inner = element("thead", None, head), element("tbody", None, *body)
    return element(
        "div", {"class": "wide"}, element("table", {"class": f"sortable {kind}".strip(), "id": identifier}, *inner)
    )


def _cell(cell: Cell | str, column: int) -> Html:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    text = element("a", {"href": cell.href}, cell.text) if cell.href else cell.text
    if column == 0:
        return element("th", {"scope": "row"}, text)
    if cell.value is None:
        return element("td", {"class": "prose" if cell.prose else "left" if cell.left else None}, text)
    value = "" if math.isnan(cell.value) else repr(float(cell.value))
    return element("td", {"data-value": value}, text)


def page(title: str, subtitle: str, sections: Sequence[Html], contents: Mapping[str, str] | None = None) -> str:
    """A whole HTML document.

    Args:
        title: title of the document.
        subtitle: the line below the title.
        sections: the page's sections, in order.
        contents: name of each section by its identifier, for the links at the top.
    """
    links = [element("a", {"href": f"#{identifier}"}, name) for identifier, name in (contents or {}).items()]
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", None, title),
        element("style", None, Html(_STYLE)),
    )
    header = element("header", None, element("h1", None, title), paragraph(subtitle), element("nav", None, *links))
    main = element("main", None, *sections)
    body = element("body", None, header, main, element("script", None, Html(_SCRIPT)))
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, head, body)}\n"


_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --quiet: #4a535e; --rule: #d5dae0; --row: #e6e9ed; --strong: #9aa4b0;
  --panel: #f4f6f8; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --back: #15181c; --quiet: #a7b0bb; --rule: #363c44; --row: #2a3037; --strong: #6b7682; --panel: #20252b;
    --link: #79b8ff; }
  svg.chart, .swatch { filter: invert(0.9) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--text); background: var(--back);
  max-width: 1180px; margin: 0 auto; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.6rem; margin: 0.6rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.4rem; padding-top: 0.6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.3rem 0 0.3rem; }
p { margin: 0.4rem 0; max-width: 62rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin-top: 0.5rem; }
a { color: var(--link); }
.caption { color: var(--quiet); font-size: 0.92rem; }
.command { background: var(--panel); padding: 0.4rem 0.6rem; font-size: 0.82rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 0.4rem 0; border-radius: 3px; }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.22rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--row); }
thead th { border-bottom: 2px solid var(--strong); background: var(--back); vertical-align: bottom; }
.many thead th { white-space: normal; overflow-wrap: break-word; max-width: 8rem; }
.many th, .many td { padding: 0.22rem 0.45rem; }
.many td.prose { min-width: 8rem; }
.sortable thead th { cursor: pointer; }
thead th[aria-sort=ascending]::after { content: " \\2191"; }
thead th[aria-sort=descending]::after { content: " \\2193"; }
th:first-child { text-align: left; font-weight: 600; }
tbody tr:hover { background: var(--panel); }
.facts thead th, .prose, .left { text-align: left; }
.prose { white-space: normal; min-width: 16rem; color: var(--quiet); }
.facts td { text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere; max-width: 34rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; }
figure { margin: 0.5rem 0; break-inside: avoid; }
.charts figure { width: 540px; max-width: 100%; }
.charts svg { max-width: 100%; height: auto; }
figcaption { font-size: 0.88rem; color: var(--text); overflow-wrap: anywhere; }
.grid { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-end; }
.grid figure { margin: 0; width: 262px; } .grid figcaption { overflow-wrap: anywhere; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; }
.frame { width: 172px; }
.frame svg { display: block; width: 100%; height: auto; background: #eceff2; }
.frame span { font-size: 0.76rem; color: var(--quiet); }
svg text { font: 11px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1b1f24; }
svg:not(.chart) text { fill: var(--text); }
details { margin: 0.4rem 0; } summary { cursor: pointer; }
.hashes td, .hashes th { font-size: 0.8rem; } .hashes thead th { text-align: left; } .hashes td { font-family: ui-monospace, monospace; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.88rem; }
.swatch { display: inline-block; width: 1.5rem; height: 0; border-top: 3px solid; vertical-align: middle;
  margin-right: 0.4rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  tr, figure, .frame { break-inside: avoid; }
  .frame { width: 118px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

_SCRIPT = """
for (const head of document.querySelectorAll(".sortable thead th")) {
  head.addEventListener("click", () => {
    const column = head.cellIndex, body = head.closest("table").tBodies[0];
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column];
      return "value" in cell.dataset ? (cell.dataset.value === "" ? NaN : Number(cell.dataset.value)) : cell.textContent;
    };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (typeof x === "number" && typeof y === "number") {
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return ascending ? x - y : y - x;
      }
      return (ascending ? 1 : -1) * String(x).localeCompare(String(y), undefined, { numeric: true });
    };
    body.append(...[...body.rows].sort(order));
  });
}
"""
