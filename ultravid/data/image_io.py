"""Pictures on disk: open them, and find broken ones without decoding."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.data.video import DataError

__all__ = ["image_fault", "read_image"]

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def image_fault(path: str | Path, height: int, width: int) -> str | None:
    """What is wrong with a picture, from its first and last bytes; None where nothing is.

    Decoders fill the missing part of a cut file with grey and say nothing, so its end is looked at. A PNG's size is
    compared with the one that was announced.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(24)
            file.seek(-min(64, file.seek(0, 2)), 2)
            tail = file.read().rstrip(b"\0\r\n")
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if not head:
        return "is empty"
    if head.startswith(_PNG):
        if not tail.endswith(_PNG_END):
            return "is a truncated PNG"
        found = struct.unpack(">II", head[16:24])[::-1]
        return (
            None if found == (height, width) else f"is {found[1]}x{found[0]} px, its annotation says {width}x{height}"
        )
    if head.startswith(_JPEG):
        return None if tail.endswith(_JPEG_END) else "is a truncated JPEG"
    return None


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture as ``(H, W, 3)`` uint8 RGB; grey ones get three equal channels.

    Raises:
        DataError: the file is missing, cut or no picture.
    """
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DataError(f"{path}: is not a picture that can be decoded ({len(data)} bytes).")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
