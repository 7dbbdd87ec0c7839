"""Text as Markdown that shows it as it is."""

from __future__ import annotations

import re

__all__ = ["plain"]


def plain(text: str) -> str:
    """A text whose angle brackets and asterisks are shown, but for those in code spans."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;").replace("*", r"\*") for p in pieces)
