"""A short description of the data that a run used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ultravid.datasets.patients import num_unknown_patients
from ultravid.datasets.video import Video

__all__ = ["combine_fingerprints", "fingerprint_each", "fingerprint_loader", "fingerprint_videos", "videos_of_loader"]


def fingerprint_videos(videos: Sequence[Video]) -> dict[str, Any]:
    """Counts, and a SHA-256 over what is known of the videos before an image is opened.

    The hash covers ids, patients, frame rates, the last two parts of each frame's path, sizes, boxes, classes and tracks, and the
    numbers and time stamps of films that have gaps or stamps, but neither the dataset's folder nor the pixels.
    """
    digest = hashlib.sha256()
    for video in videos:
        digest.update(repr((video.video_id, video.patient, video.fps, len(video))).encode())
        if not video.patient_known:
            digest.update(b"its own patient")
        if video.has_own_times:
            times = video.times
            digest.update(times.times_s.tobytes() + times.ticks.tobytes())
        for frame in video.frames:
            name = "/".join(Path(frame.path).parts[-2:])
            digest.update(repr((name, frame.height, frame.width)).encode())
            if frame.blanked:
                digest.update(repr(frame.blanked).encode())
            for values in (frame.boxes, frame.classes, frame.track_ids):
                digest.update(values.tobytes())
    return {
        "videos": len(videos),
        "frames": sum(len(video) for video in videos),
        "boxes": sum(len(frame.boxes) for video in videos for frame in video.frames),
        "videos_of_unknown_patient": num_unknown_patients(videos),
        "sha256": digest.hexdigest(),
    }


def fingerprint_loader(loader: Any) -> dict[str, Any] | None:
    """`fingerprint_videos` of a loader whose ``dataset`` has ``videos``, else None. A test loader knows only its rank's videos."""
    videos = videos_of_loader(loader)
    return None if videos is None else fingerprint_videos(videos)


def fingerprint_each(loader: Any) -> dict[str, dict[str, Any]] | None:
    """`fingerprint_videos` of each video of a loader, by id; None if it does not know its videos."""
    videos = videos_of_loader(loader)
    return None if videos is None else {video.video_id: fingerprint_videos([video]) for video in videos}


def combine_fingerprints(parts: Iterable[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Counts and a SHA-256 of the videos of several processes, the same however the videos are shared out."""
    by_id = {video_id: found for part in parts for video_id, found in part.items()}
    digest = hashlib.sha256()
    for video_id in sorted(by_id):
        digest.update(by_id[video_id]["sha256"].encode())
    names = ("videos", "frames", "boxes", "videos_of_unknown_patient")
    counts = {name: sum(found[name] for found in by_id.values()) for name in names}
    return {**counts, "sha256": digest.hexdigest()}


def videos_of_loader(loader: Any) -> Sequence[Video] | None:
    """The videos of a loader whose ``dataset`` has ``videos``, else None."""
    found: Sequence[Video] | None = getattr(getattr(loader, "dataset", None), "videos", None)
    return found
