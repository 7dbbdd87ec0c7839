"""The videos behind a loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultravid.datasets.video import Video

__all__ = ["loader_videos"]


def loader_videos(loader: Any) -> list[Video]:
    """The videos that a loader draws from, in all processes together; empty for a loader of other things.

    Args:
        loader: a loader, or several by name.
    """
    loaders = list(loader.values()) if isinstance(loader, Mapping) else [loader]
    datasets = [getattr(one, "dataset", None) for one in loaders]
    found = [getattr(d, "all_videos", None) or getattr(d, "videos", None) or () for d in datasets]
    return [video for videos in found for video in videos if isinstance(video, Video)]
