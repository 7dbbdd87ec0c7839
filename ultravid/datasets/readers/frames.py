"""Frames of a `Video` as images; a few movies and DICOM files are kept open between calls.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from ultravid.datasets.image_io import read_image_of_recording
from ultravid.datasets.readers.opener import open_whole
from ultravid.datasets.readers.source import FrameSource, ImageArray, blank
from ultravid.datasets.video import DataError, Frame, FrameView, Video

__all__ = ["read_frame_image", "read_frame_view"]

_MAX_OPEN = 8  # files per process; a movie in full HD holds about 30 MB of decoder and reference frames


class _OpenSources:
    """The sources that were used last; the others are closed, and a file that was replaced is opened again."""

    def __init__(self) -> None:
        self.sources: OrderedDict[str, tuple[tuple[int | None, ...], FrameSource]] = OrderedDict()

    def get(self, path: str, bits: int | None) -> FrameSource:
        state = bits, *_state_of(path)
        opened = self.sources.get(path)
        if opened is None or opened[0] != state:
            if opened is not None:
                self.sources.pop(path)[1].close()
            opened = self.sources[path] = state, open_whole(path, bits)
            while len(self.sources) > _MAX_OPEN:
                self.sources.popitem(last=False)[1][1].close()
        self.sources.move_to_end(path)
        return opened[1]


def _state_of(path: str) -> tuple[int, ...]:
    """What changes if a file is replaced or written to; nothing if it can't be looked at, and opening it says why."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


_open = _OpenSources()
_inherited: list[_OpenSources] = []


def _reset_after_fork() -> None:
    """A forked process shares the file offsets of its parent's open movies: it opens them itself, and does not close the parent's."""
    global _open
    _inherited.append(_open)
    _open = _OpenSources()


os.register_at_fork(after_in_child=_reset_after_fork)


def read_frame_image(video: Video, index: int, *, keep_grey: bool = False) -> ImageArray:
    """Frame ``index`` of a video as ``(H, W, 3)`` uint8 RGB.

    Args:
        video: the video.
        index: from 0.
        keep_grey: return the frame of a grey image's file as ``(H, W)`` instead.

    Raises:
        DataError: it can't be decoded, or has another size than its annotation states; the message names video, frame and file.
    """
    return _read_frame(video.frames[index], f"Video {video.video_id!r} frame {index}", keep_grey)


def read_frame_view(path: Path, view: FrameView) -> ImageArray:
    """The frame of a view as `read_frame_image` gives it, of a file that may lie elsewhere now.

    Args:
        path: where the file is now.
        view: which frame of the file it is, its size, and how it is cut and blanked.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        DataError: it can't be decoded, or has another size.
    """
    f = view
    frame = Frame(
        *(str(path), 0, f.height, f.width),
        index_in_file=f.index_in_file,
        crop=f.crop,
        blanked=f.blanked,
        bits=f.bits,
    )
    return _read_frame(frame, str(path), keep_grey=False)


def _read_frame(frame: Frame, where: str, keep_grey: bool) -> ImageArray:
    try:
        if frame.index_in_file is None:
            image = read_image_of_recording(frame.path, frame.bits, keep_grey=keep_grey)
        else:
            image = _open.get(frame.path, frame.bits).read(frame.index_in_file)
    except (DataError, IndexError) as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a decoder may raise anything, and its text may quote the file
        raise DataError(f"{where}: {frame.path} can't be decoded ({type(error).__name__}).") from error
    if frame.blanked:
        image = blank(image, frame.blanked)
    if frame.crop is not None:
        x1, y1, x2, y2 = frame.crop
        image = image[y1:y2, x1:x2]
    if image.shape[:2] != (frame.height, frame.width):
        raise DataError(
            f"{where}: {Path(frame.path)} is {image.shape[1]}x{image.shape[0]} px, "
            f"its annotation says {frame.width}x{frame.height}."
        )
    return image
