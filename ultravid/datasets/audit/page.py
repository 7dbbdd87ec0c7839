"""An audit as one self-contained HTML page."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np

from ultravid.datasets.audit.survey import AuditReport, Example, Table
from ultravid.datasets.readers.source import ImageArray

__all__ = ["render_page"]

_MOST_ROWS = 500  # per table
_WIDTH = 320  # px of an image on the page
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #1c2530; }
h1 { font-size: 1.5em; } h2 { font-size: 1.12em; margin: 2em 0 .4em; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #d5dbe2; padding: .25em .9em .25em 0; text-align: left; vertical-align: top; }
p.verdict { border-left: .4em solid; padding: .6em 1em; font-weight: 600; }
p.leak { border-color: #b3261e; background: #fbe9e7; } p.clean { border-color: #2e7d32; background: #e9f5ea; }
p.unsure { border-color: #b26a00; background: #fff4e0; }
p.note { color: #5a6675; margin: .3em 0; }
section.leak h2 { color: #b3261e; }
div.pictures { display: flex; flex-wrap: wrap; gap: 1em; margin-top: .8em; }
figure { margin: 0; } figure img { height: 180px; margin-right: 3px; background: #000; }
figcaption { font-size: .82em; color: #5a6675; max-width: 26em; overflow-wrap: anywhere; }
"""


def render_page(report: AuditReport, title: str) -> str:
    """The page: the verdict, then the findings, then the contents of the splits.

    Args:
        report: what the audit has found.
        title: the page's title and heading, as plain text.

    Returns:
        The page as HTML, which loads nothing from elsewhere.
    """
    kind = "leak" if report.has_leak else "unsure" if report.unknown_patients else "clean"
    verdict = f'<p class="verdict {kind}">{escape(report.verdict)}</p>'
    verdict += "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    body = "\n".join(map(_section, [*report.findings, *report.counts]))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{verdict}\n{body}\n</body></html>\n"
    )


def _section(table: Table) -> str:
    kind = ' class="leak"' if table.leak else ""
    number = f" ({len(table.rows)})" if table.rows and table.columns and table.columns[0] else ""
    parts = [f"<section{kind}><h2>{escape(table.title)}{number}</h2>"]
    if table.note:
        parts.append(f'<p class="note">{escape(table.note)}</p>')
    if table.rows:
        head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
        rows = ("".join(f"<td>{escape(v)}</td>" for v in row) for row in table.rows[:_MOST_ROWS])
        parts.append(f"<table><tr>{head}</tr>{''.join(f'<tr>{r}</tr>' for r in rows)}</table>")
    if len(table.rows) > _MOST_ROWS:
        parts.append(f'<p class="note">{len(table.rows) - _MOST_ROWS} more rows are not shown.</p>')
    if table.every:
        rows = ("".join(f"<td>{escape(v)}</td>" for v in row) for row in table.every[:_MOST_ROWS])
        shown = f"all {len(table.every)}" if len(table.every) <= _MOST_ROWS else f"the first {_MOST_ROWS}"
        listed = f"<table>{''.join(f'<tr>{r}</tr>' for r in rows)}</table>"
        parts.append(f"<details><summary>List {shown}</summary>{listed}</details>")
    if table.examples:
        parts.append(f'<div class="pictures">{"".join(map(_figure, table.examples))}</div>')
    return "\n".join([*parts, "</section>"])


def _figure(example: Example) -> str:
    pictures = "".join(f'<img alt="" src="data:image/jpeg;base64,{_jpeg(i)}">' for i in example.images)
    return f"<figure>{pictures}<figcaption>{escape(example.caption)}</figcaption></figure>"


def _jpeg(image: ImageArray) -> str:
    height, width = image.shape[:2]
    if width > _WIDTH:
        size = (_WIDTH, max(1, round(height * _WIDTH / width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert written
    return base64.b64encode(data.tobytes()).decode()
