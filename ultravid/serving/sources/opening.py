"""Opens any source of frames."""

from __future__ import annotations

import os
from pathlib import Path

from ultravid.datasets.masks import Masks
from ultravid.datasets.readers.kinds import kind_of
from ultravid.datasets.readers.shown import HasRegions, Shown, choose_shown
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError
from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.sources.movie import MovieStream
from ultravid.utils.errors import UserError

__all__ = ["open_stream"]


def open_stream(
    source: str | os.PathLike[str],
    *,
    crop: bool = True,
    masks: Masks | None = None,
    blank_outside_region: bool = False,
    region: int | None = None,
    vid_stride: int = 1,
) -> RecordingStream:
    """Open a source of frames.

    Args:
        source: of the frames.
        crop: show the model only the part that shows the scan, if the file states it (DICOM's ultrasound regions).
        masks: what to black out besides, by device and image size.
        blank_outside_region: black out what is outside of the regions instead of cropping it.
        region: of several regions show this one only, from 1, the largest first; None: all.
        vid_stride: give every n-th frame only, with its own number and time stamp.

    Raises:
        DataError: the source does not exist, can't be read, or is of no kind that frames are read from.
    """
    if vid_stride < 1:
        raise UserError(f"vid_stride is {vid_stride}; it must be 1 (every frame) or more.")

    def show(images: HasRegions, device: str) -> Shown:
        return choose_shown(
            *(images,), crop=crop, blank_outside_region=blank_outside_region, region=region, masks=masks, device=device
        )

    path = Path(source)
    if not os.path.exists(path):
        raise DataError(f"{path} does not exist.")
    try:
        with open_regular(path) as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    if empty:
        raise DataError(f"{path}: is empty (0 bytes).")
    if kind_of(path) == "movie":
        return MovieStream(path, path.stem, show, vid_stride=vid_stride)
    raise DataError(f"{path}: is not a kind of file that frames are read from.")
