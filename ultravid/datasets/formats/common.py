"""Code that the readers of annotations share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.datasets.faults import FileFaults
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.utils.file_io import is_local

__all__ = ["Row", "check_unique_ids", "make_frame", "make_video", "require_folder", "static_frames_fault"]

Row = tuple[list[float], int, int]
"""(XYXY box, class, track id)."""


def require_folder(address: str | Path) -> Path:
    """The path of a folder whose files a reader lists.

    Raises:
        DataError: the address is not local: a folder can't be listed there.
    """
    if not is_local(address):
        raise DataError(
            f"{address}: is not a local folder. A dataset's folder is listed and its images are opened many times: mount it "
            "or copy it. JSON files of annotations and tables of patients may be at any address."
        )
    return Path(address)


def static_frames_fault(stretches: Any, num_frames: int) -> str | None:
    """What is wrong with a list of stretches [first, last]; None if nothing is."""
    for stretch in stretches if isinstance(stretches, list) else [stretches]:
        pair = isinstance(stretch, list) and len(stretch) == 2 and all(isinstance(v, int) for v in stretch)
        if not pair or not 0 <= stretch[0] <= stretch[1] < num_frames:
            return f"static_frames holds {stretch!r}, not [first, last] of {num_frames} frames"
    return None


def check_unique_ids(videos: Sequence[Video], faults: FileFaults, where: str = "twice") -> list[Video]:
    """The videos, each id once; an id that several videos have is rejected.

    Args:
        videos: any.
        faults: takes the rejections.
        where: how an id is repeated, for the message.
    """
    counts = Counter(video.video_id for video in videos)
    for video_id in sorted(name for name, number in counts.items() if number > 1):
        faults.reject("two videos with one id", f"video {video_id!r} is listed {where}", videos=[video_id])
    return list({video.video_id: video for video in videos}.values())


def make_frame(
    place: tuple[str, int | None], image_id: Any, size: tuple[int, int], rows: Sequence[Row], **more: Any
) -> Frame:
    """A frame with its annotated rows; ``place`` is (file, number in the file), ``size`` is (height, width)."""
    path, index_in_file = place
    return Frame(
        path=path,
        image_id=image_id,
        height=size[0],
        width=size[1],
        boxes=np.asarray([r[0] for r in rows], np.float32).reshape(-1, 4),
        classes=np.asarray([r[1] for r in rows], np.int64),
        track_ids=np.asarray([r[2] for r in rows], np.int64),
        index_in_file=index_in_file,
        **more,
    )


def make_video(video_id: str, frames: Sequence[Frame], patient: str | None, **more: Any) -> Video:
    """A video; ``patient`` is None if it is not known, and the video then counts as a separate patient."""
    named = video_id if patient is None else patient
    return Video(video_id, tuple(frames), named, patient_known=patient is not None, **more)
