"""A trained detector at work: on one's own recordings, on live streams, on a page, and exported.

Names whose modules need torch are imported when they are asked for: a process that only decodes then starts in half a second of CPU
time instead of seven, and in a tenth of the memory.
"""

from __future__ import annotations

import importlib
from typing import Any

from ultravid.serving.records import Detection, FrameDetections, TimedFrame
from ultravid.serving.sources.base import RecordingStream

__all__ = ["Detection", "FrameDetections", "RecordingStream", "TimedFrame"]

_MODULES: dict[str, str] = {}
"""The module of each name that is imported late; type checkers see the names by an import under ``if TYPE_CHECKING``."""


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
