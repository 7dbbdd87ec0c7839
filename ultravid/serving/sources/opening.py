"""Opens any source of frames."""

from __future__ import annotations

import os
from pathlib import Path

from ultravid.datasets.masks import Masks
from ultravid.datasets.readers.images import list_images
from ultravid.datasets.readers.opener import kind_to_read
from ultravid.datasets.readers.search import FoundRecordings
from ultravid.datasets.readers.shown import HasImageRegions, Shown, choose_shown
from ultravid.datasets.video import DataError
from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.sources.frames import open_dicom, open_pictures, open_stack
from ultravid.serving.sources.listing import Source, source_of
from ultravid.serving.sources.live_options import LiveOptions
from ultravid.serving.sources.showing import Show
from ultravid.utils.errors import UserError

__all__ = ["check_source", "open_stream"]


def open_stream(
    source: Source | str | os.PathLike[str] | int,
    *,
    crop: bool = True,
    masks: Masks | None = None,
    blank_outside_region: bool = False,
    region: int | None = None,
    vid_stride: int = 1,
    live: LiveOptions | None = None,
) -> RecordingStream:
    """Open a source of frames: a movie, a DICOM file, a TIFF of several pages, a picture, a folder of pictures, a camera or an address.

    Files are read by their content, whatever their names. A folder of several recordings, a pattern and a list of sources are for
    `list_sources`, whose items are taken here.

    Args:
        source: the source of the frames. A number is that of a camera, also as a text; a path object is always a path.
        crop: show the model only the part that shows the scan, if the file states it (DICOM's ultrasound regions).
        masks: what to black out besides, by device and image size.
        blank_outside_region: black out what is outside of the regions instead of cropping to them.
        region: of several regions show this one only, from 1, the largest first; None: all.
        vid_stride: give every n-th frame only, with its own number and time stamp.
        live: how long to wait for a camera or an address, and how often to look for one that stopped.

    Raises:
        DataError: the source does not exist, can't be read, holds no whole frame, or is of no kind that frames are read from.
    """
    if isinstance(vid_stride, bool) or not isinstance(vid_stride, int) or vid_stride < 1:
        raise UserError(f"vid_stride is {vid_stride!r}; it is a whole number from 1 (every frame).")

    def show(images: HasImageRegions, device: str) -> Shown:
        return choose_shown(
            images, crop=crop, blank_outside_region=blank_outside_region, region=region, masks=masks, device=device
        )

    found = source if isinstance(source, Source) else source_of(source)
    if found.path is None:
        from ultravid.serving.sources.live import open_live

        return open_live(found, show, vid_stride=vid_stride, options=live)
    return _open_path(found.path, found.name, show, vid_stride)


def check_source(source: Source) -> None:
    """Refuse a source that can't be opened, before a model is loaded for it: a file is opened and closed, an address is not called.

    Args:
        source: the source to try.

    Raises:
        DataError: as of `open_stream`.
    """
    if source.path is not None:
        open_stream(source).close()
    elif source.camera is not None:
        from ultravid.serving.sources.live_connection import check_camera

        check_camera(source.camera)


def _open_path(path: Path, name: str, show: Show, vid_stride: int) -> RecordingStream:
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise DataError(f"{path} does not exist.")
    if path.is_dir():
        _refuse_several(path)
        return open_pictures(path, name, show, vid_stride=vid_stride)
    kind = kind_to_read(path)
    if kind == "movie":
        from ultravid.serving.sources.movie import MovieStream  # PyAV and pydicom take half a second to import

        return MovieStream(path, name, show, vid_stride=vid_stride)
    if kind == "dicom":
        return open_dicom(path, name, show, vid_stride=vid_stride)
    if kind == "stack":
        return open_stack(path, name, show, vid_stride=vid_stride)
    return open_pictures(path, name, show, vid_stride=vid_stride)


def _refuse_several(folder: Path) -> None:
    if list_images(folder):
        return
    number = len(FoundRecordings(folder).recordings)
    if number:
        raise DataError(
            f"{folder}: holds {number} recordings; open one of them, or each of list_sources({str(folder)!r})."
        )
