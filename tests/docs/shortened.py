"""What the default test suite replaces in the blocks of a tutorial, so that it takes seconds: by page, each text and its replacement.

The outputs that depend on it are marked in the page by ``<!-- tutorial: full length -->``.
"""

from __future__ import annotations

__all__ = ["SHORTENED"]

SHORTENED: dict[str, dict[str, str]] = {}
