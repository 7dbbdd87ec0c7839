"""How a stream chooses which part of its images is shown to the model."""

from __future__ import annotations

from collections.abc import Callable

from ultravid.datasets.readers.shown import HasImageRegions, Shown

__all__ = ["Show"]

Show = Callable[[HasImageRegions, str], Shown]
"""Given what is known of the images, and the device, returns what is shown; `ultravid.datasets.readers.shown.choose_shown` with its other arguments."""
