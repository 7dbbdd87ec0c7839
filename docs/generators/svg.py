"""What the drawings share: a panel that reads on a light and on a dark page, and its colours."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

__all__ = ["CHARACTER", "NUM_COLOURS", "panel", "text"]

CHARACTER = 7.25  # width of a character of the font below, px
_LIGHT = ("#1b6ca8", "#c0392b", "#1e8449", "#8e44ad", "#b9770e", "#117a65", "#ad1457", "#4e5d6c")
_DARK = ("#6cb6f0", "#ff8a7a", "#6fd08c", "#d09bf0", "#f0b860", "#5fd3bc", "#ff86b5", "#a9b8c6")
NUM_COLOURS = len(_LIGHT)


def _rules(page: str, box: str, border: str, ink: str, faint: str, colours: Iterable[str]) -> str:
    lines = "".join(f".s{i}{{stroke:{colour}}}.f{i}{{fill:{colour}}}" for i, colour in enumerate(colours))
    return (
        f".page{{fill:{page}}}.box{{fill:{box};stroke:{border}}}.ink{{fill:{ink}}}.faint{{fill:{faint}}}"
        f".rule{{stroke:{border}}}{lines}"
    )


def panel(title: str, width: float, height: float, body: Iterable[str]) -> str:
    """A drawing on a ground of its own: a page's theme and the system's need not agree, so a transparent one might not be readable."""
    light = _rules("#ffffff", "#f5f7f9", "#c3ccd5", "#1c2126", "#68737d", _LIGHT)
    dark = _rules("#1d2126", "#2a3037", "#535e69", "#e8ecef", "#9aa5b0", _DARK)
    size = f"{width:.0f} {height:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {size}" '
            f'role="img" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="12">',
            f"<title>{escape(title)}</title>",
            f"<style>{light}@media (prefers-color-scheme: dark){{{dark}}}</style>",
            f'<rect class="page" width="{width:.0f}" height="{height:.0f}" rx="8"/>',
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, *, style: str = "ink", anchor: str = "middle", extra: str = "") -> str:
    """A line of text; ``y`` is its base line."""
    return f'<text class="{style}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'
