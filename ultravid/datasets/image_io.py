"""Images on disk: read them, and find broken ones without decoding."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.video import DataError

__all__ = ["image_fault", "image_fault_kind", "image_size", "read_image"]

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a segment that holds the size
_JPEG_EXIF = 0xE1


def image_fault(path: str | Path, height: int, width: int) -> str | None:
    """What is wrong with an image, from its first and last bytes; None if nothing is.

    Decoders silently fill the missing part of a truncated file with grey, so the file's end is checked. The size in the header
    is compared with the annotated one.
    """
    found = None
    try:
        with Path(path).open("rb") as file:
            head = file.read(24)
            file.seek(-min(64, file.seek(0, 2)), 2)
            tail = file.read().rstrip(b"\0\r\n")
            if head.startswith(_JPEG):
                file.seek(2)
                found = _jpeg_size(file)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if not head:
        return "is empty"
    if head.startswith(_PNG):
        if len(head) < 24 or not tail.endswith(_PNG_END):
            return "is a truncated PNG"
        found = struct.unpack(">II", head[16:24])[::-1]
    elif head.startswith(_JPEG) and not tail.endswith(_JPEG_END):
        return "is a truncated JPEG"
    elif not head.startswith(_JPEG) and Path(path).suffix.lower() in (".png", ".jpg", ".jpeg"):
        return "is not a PNG or JPEG image"
    if found is None or found == (height, width):
        return None
    return f"is {found[1]}x{found[0]} px, its annotation says {width}x{height}"


def image_fault_kind(fault: str) -> str:
    """The kind of fault that a message of `image_fault` describes."""
    if "truncated" in fault or "is empty" in fault:
        return "frame is truncated"
    return "frame has another size" if "annotation says" in fault else "frame can't be read"


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image as `read_image` gives it, decoded only if its header does not state it.

    Raises:
        DataError: see `read_image`.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(24)
            size = None
            if head.startswith(_PNG) and len(head) == 24:
                width, height = struct.unpack(">II", head[16:24])
                return height, width
            if head.startswith(_JPEG):
                file.seek(2)
                size = _jpeg_size(file)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    if size is None:
        height, width = read_image(path).shape[:2]
        size = height, width
    return size


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Size in a JPEG's header; None if Exif comes first, which may rotate the image, or the size isn't found."""
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != _JPEG_EXIF:
        if head[1] in _JPEG_SIZES:
            height, width = struct.unpack(">xHH", file.read(5).ljust(5, b"\0"))
            return (height, width) if height and width else None
        file.seek(max(int.from_bytes(head[2:], "big") - 2, 0), 1)
    return None


def read_image(path: str | Path, *, keep_grey: bool = False) -> NDArray[np.uint8]:
    """An image as ``(H, W, 3)`` uint8 RGB; grey ones get three equal channels.

    Args:
        path: the file.
        keep_grey: return a grey file as ``(H, W)`` instead.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with open(path, "rb") as file:  # making a Path costs as much as reading a small file
            data = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    image = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR if keep_grey else cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DataError(f"{path}: is not an image that can be decoded ({len(data)} bytes).")
    return np.asarray(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
