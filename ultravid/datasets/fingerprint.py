"""A short description of the data that a run used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.datasets.video import Video

__all__ = ["fingerprint_loader", "fingerprint_videos"]


def fingerprint_videos(videos: Sequence[Video]) -> dict[str, Any]:
    """Counts, and a SHA-256 over what is known of the videos before an image is opened.

    The hash covers ids, patients, frame rates, the last two parts of each frame's path, sizes, boxes, classes and tracks, but
    neither the dataset's folder nor the pixels.
    """
    digest = hashlib.sha256()
    for video in videos:
        digest.update(repr((video.video_id, video.patient, video.fps, len(video))).encode())
        for frame in video.frames:
            name = "/".join(Path(frame.path).parts[-2:])
            digest.update(repr((name, frame.height, frame.width)).encode())
            for values in (frame.boxes, frame.classes, frame.track_ids):
                digest.update(values.tobytes())
    return {
        "videos": len(videos),
        "frames": sum(len(video) for video in videos),
        "boxes": sum(len(frame.boxes) for video in videos for frame in video.frames),
        "sha256": digest.hexdigest(),
    }


def fingerprint_loader(loader: Any) -> dict[str, Any] | None:
    """`fingerprint_videos` of a loader whose ``dataset`` has ``videos``, else None. A test loader knows only its rank's videos."""
    videos = getattr(getattr(loader, "dataset", None), "videos", None)
    return None if videos is None else fingerprint_videos(videos)
