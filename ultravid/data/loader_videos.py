"""The videos of a loader, with their organs and class names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ultravid.datasets.video import Video

__all__ = ["loader_videos", "organ_of", "videos_by_organ"]


def loader_videos(loader: Any) -> list[Video]:
    """The videos that a loader draws from, in all processes together; empty for a loader of other things.

    Args:
        loader: a loader, or several by name.
    """
    loaders = list(loader.values()) if isinstance(loader, Mapping) else [loader]
    datasets = [getattr(one, "dataset", None) for one in loaders]
    found = [getattr(d, "all_videos", None) or getattr(d, "videos", None) or () for d in datasets]
    return [video for videos in found for video in videos if isinstance(video, Video)]


def organ_of(video: Video, organ: str | None = None) -> str:
    """What a video shows: the given organ; None: the one in its metadata, "" if that has none."""
    return str(video.metadata.get("organ", "")) if organ is None else organ


def videos_by_organ(loader: Any) -> dict[str, list[Video]]:
    """The videos of `loader_videos` by the organ that a model is given with them; "" if it is not known."""
    found: dict[str, list[Video]] = {}
    for name, one in _single_loaders(loader):
        given = getattr(getattr(one, "dataset", None), "organ", None)
        for video in loader_videos(one):
            found.setdefault(organ_of(video, given) or name, []).append(video)
    return found


def _single_loaders(loader: Any) -> Iterator[tuple[str, Any]]:
    """Loaders, with the name that stands for an organ that a video does not state: only a `MixedClipLoader` gives one."""
    mixed = getattr(loader, "loaders", None)
    if isinstance(loader, Mapping):
        for one in loader.values():
            yield from _single_loaders(one)
    elif isinstance(mixed, Mapping):
        yield from mixed.items()
    else:
        yield "", loader
