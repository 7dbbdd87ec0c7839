"""Pictures of frames for the page: encoding, and a file that stores them for jumps along the recording.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from ultravid.datasets.readers.source import ImageArray

__all__ = ["PictureStore", "encode_picture"]

_QUALITY = 92
_MAX_SIDE = 1600  # px: a larger frame is reduced, which its boxes need not know of


def encode_picture(image: ImageArray) -> bytes:
    """A frame ``(H, W, 3)`` uint8 RGB as JPEG of at most 1600 px a side.

    libjpeg-turbo takes 1.2 ms for 512 x 512 px, FFmpeg's encoder (PyAV) 5.4 ms.
    """
    height, width = image.shape[:2]
    scale = _MAX_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=_QUALITY, colorspace="RGB", colorsubsampling="444"
    )


class PictureStore:
    """Pictures by number, in one file. One thread appends; others read at the same time.

    Args:
        path: the path of the file, which is created with mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._ends: list[int] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._ends[-1] if self._ends else 0

    def append(self, picture: bytes) -> None:
        """Add the next picture.

        Raises:
            OSError: the disk is full, or the store is closed.
        """
        with self._lock:
            self._refuse_if_closed()
            end = self.num_bytes
            view = memoryview(picture)
            while view:
                written = os.pwrite(self._number, view, end)
                view, end = view[written:], end + written
            self._ends.append(end)

    def read(self, numbers: Iterable[int]) -> list[bytes]:
        """The pictures with these numbers.

        Raises:
            IndexError: there is no such picture.
            OSError: the store is closed.
        """
        with self._lock:
            self._refuse_if_closed()
            found = []
            for number in numbers:
                start = self._ends[number - 1] if number else 0
                found.append(os.pread(self._number, self._ends[number] - start, start))
            return found

    def remove(self) -> None:
        """Close and delete the file."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._number)
                self.path.unlink(missing_ok=True)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise OSError("the pictures were deleted")
