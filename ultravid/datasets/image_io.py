"""Images on disk: read them, and find broken ones without decoding.

PNG, JPEG, BMP, TIFF, WebP and GIF of one frame are read, whatever a file's name. Channels of more than 8 bits are brought to 8
by a scale that is the same for all images of a recording, and for all stills of a data set: how many of the 16 bits are used is stated
in the files, else it is the least number from 8 to 16 that holds the largest value of all of them (`find_significant_bits`). The
upper 8 of those bits are kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.bounds import MAX_IMAGE_BYTES, frame_size_fault
from ultravid.datasets.image_decoding import UndecodableImageError, decode_image
from ultravid.datasets.image_headers import ImageHeader, read_image_header
from ultravid.datasets.safe_files import open_regular, read_bytes
from ultravid.datasets.video import DataError

__all__ = [
    "ImageCheck",
    "SignificantBits",
    "check_image",
    "find_significant_bits",
    "image_fault",
    "image_fault_kind",
    "image_size",
    "other_depth",
    "read_image",
    "read_image_of_recording",
    "significant_bits",
    "to_8_bits",
]

_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


_GUESSED = (
    "recordings have 16-bit images that don't state how many bits are used, which is guessed from their largest value"
)


@dataclass(frozen=True)
class SignificantBits:
    """How many bits of a recording's images are used.

    Attributes:
        number: 8 to 16.
        stated: whether the files state it; else it is guessed from the largest value.
        largest: the largest value that was found.
    """

    number: int
    stated: bool
    largest: int

    @property
    def guess(self) -> tuple[str, str] | None:
        """Kind and message of the repair, as `FileFaults.repair` takes them; None if nothing was guessed."""
        return None if self.stated else (_GUESSED, f"{self.number} bits (largest value {self.largest})")


@dataclass(frozen=True)
class ImageCheck:
    """What the check of an image's file found.

    Attributes:
        fault: what is wrong with it, to follow its name; None if nothing is.
        bits: 16 if its channels have more than 8, for `Frame.bits` until the index finds how many of them are used; else None.
    """

    fault: str | None
    bits: int | None = None


def check_image(path: str | Path, height: int, width: int, *, stated: str = "its annotation says") -> ImageCheck:
    """Check an image by its first and last bytes.

    A file that does not end where its image does, and one that is neither PNG nor JPEG, is decoded. The size in the header, after
    its Exif orientation, is compared with the annotated one.

    Args:
        path: the file.
        height: which it should have, in pixels.
        width: which it should have, in pixels.
        stated: words that say where that size is stated.
    """
    try:
        with open_regular(path) as file:
            header = read_image_header(file)
            file.seek(0)
            empty = not file.read(1)
            length = file.seek(0, 2)
            file.seek(-min(64, length), 2)
            tail = file.read().rstrip(b"\0\r\n")
    except OSError as error:
        return ImageCheck(f"can't be read ({error.strerror})")
    if empty:
        return ImageCheck("is empty")
    if header is None:
        return ImageCheck("is not a PNG, JPEG, BMP, TIFF, WebP or GIF image")
    wrong_size = f"{stated} {width}x{height}"
    return ImageCheck(_image_fault(path, header, tail, (height, width), wrong_size), 16 if header.bits > 8 else None)


def _image_fault(
    path: str | Path, header: ImageHeader, tail: bytes, size: tuple[int, int], wrong_size: str
) -> str | None:
    if header.fault is not None:
        return header.fault
    found = header.size
    if found is not None and (fault := frame_size_fault(*found)) is not None:
        return f"can't be read: {fault}"
    if not tail.endswith(_ENDS.get(header.kind, b"\0")) or found is None:
        try:
            decoded = read_image(path)
        except DataError as error:
            return _truncation(path, header.kind) or str(error).removeprefix(f"{path}: ").rstrip(".")
        found = (decoded.shape[0], decoded.shape[1])
    if found == size:
        return None
    turned = " after the turn that its Exif orientation states" if header.turned else ""
    return f"is {found[1]}x{found[0]} px{turned}, {wrong_size}"


def _truncation(path: str | Path, kind: str) -> str | None:
    end = _ENDS.get(kind)
    return f"is a truncated {kind}" if end is not None and end not in read_bytes(path, MAX_IMAGE_BYTES) else None


def image_fault(path: str | Path, height: int, width: int) -> str | None:
    """What is wrong with an image, None if nothing is; see `check_image`."""
    return check_image(path, height, width).fault


def image_fault_kind(fault: str) -> str:
    """The kind of fault that a fault of `check_image` is of."""
    if "truncated" in fault or "is empty" in fault:
        return "frame is truncated"
    if "damaged" in fault:
        return "frame is damaged"
    return "frame has another size" if "annotation says" in fault else "frame can't be read"


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image as `read_image` gives it, decoded only if it is neither PNG nor JPEG.

    Raises:
        DataError: see `read_image`.
    """
    try:
        with open_regular(path) as file:
            header = read_image_header(file)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    if header is not None and header.kind in _ENDS and header.size is not None:
        return header.size
    height, width = read_image(path).shape[:2]
    return height, width


def read_image(path: str | Path, *, keep_grey: bool = False, bits: int | None = None) -> NDArray[np.uint8]:
    """An image as ``(H, W, 3)`` uint8 RGB; grey ones get three equal channels.

    Args:
        path: the file.
        keep_grey: return a grey file as ``(H, W)`` instead.
        bits: how many bits of a 16-bit image are used, 8 to 16. None: what this file alone states or suggests, which may be another
            scale than that of the recording that it is a frame of.

    Raises:
        DataError: the file is missing, truncated, damaged, not an image, larger than `MAX_PIXELS`, or of a kind whose colours
            are not known: CMYK, floating-point numbers, transparent pixels.
    """
    image, header = _decode(path, keep_grey)
    if image.dtype == np.uint8:
        return image
    if bits is None:
        bits = significant_bits(int(image.max()), header.significant_bits).number
    return to_8_bits(path, image, bits)


def read_image_of_recording(path: str | Path, bits: int | None, *, keep_grey: bool = False) -> NDArray[np.uint8]:
    """As `read_image`, for an image of a recording whose depth is known.

    Args:
        path: the file.
        bits: how many bits of the recording's 16-bit images are used, 8 to 16; None: its images have 8 bits.
        keep_grey: return a grey file as ``(H, W)`` instead.

    Raises:
        DataError: see `read_image`; or the image has another depth than its recording.
    """
    image, _ = _decode(path, keep_grey)
    depth = 8 if image.dtype == np.uint8 else 16
    if (bits is None) != (depth == 8):
        raise DataError(f"{path}: {other_depth(depth)}.")
    return image if bits is None else to_8_bits(path, image, bits)


def other_depth(depth: int) -> str:
    """What is wrong with an image of 8 or 16 bits in a recording of the other depth, to follow its name."""
    return f"has {depth} bits per channel, its recording's first image has {24 - depth}: save all images with one depth"


def to_8_bits(path: str | Path, image: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The upper 8 of ``bits`` bits of a uint16 image.

    Raises:
        DataError: a value has more bits.
    """
    largest = int(image.max(initial=0))
    if largest >> bits:
        raise DataError(f"{path}: holds the value {largest}, more than the {bits} bits of its recording's images.")
    return (image >> (bits - 8)).astype(np.uint8)


def find_significant_bits(paths: Sequence[str | Path]) -> SignificantBits:
    """How many bits are used of images that have 16. Images that can't be decoded are skipped.

    It counts as stated only if every image states it; of several numbers the largest is taken.
    """
    largest, stated = 0, []
    for path in paths:
        try:
            image, header = _decode(path, keep_grey=True)
        except DataError:
            continue
        largest = max(largest, int(image.max(initial=0)))
        stated.append(header.significant_bits)
        if largest >> 15:  # all 16 are used, whatever the others hold
            break
    numbers = [number for number in stated if number is not None]
    return significant_bits(largest, max(numbers) if numbers and len(numbers) == len(stated) else None)


def significant_bits(largest: int, stated: int | None) -> SignificantBits:
    """How many bits are used of images whose largest value is known, and in whose files a number may be stated."""
    # PNG wants values scaled to all 16 bits and those that counted before in sBIT; most writers leave them where they were.
    if stated is not None:
        return SignificantBits(16 if largest >> stated else max(stated, 8), True, largest)
    return SignificantBits(max(8, largest.bit_length()), False, largest)


def _decode(path: str | Path, keep_grey: bool) -> tuple[NDArray[Any], ImageHeader]:
    try:
        data = read_bytes(path, MAX_IMAGE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    header = read_image_header(data)
    if header is None:
        raise DataError(f"{path}: is not an image that can be decoded ({len(data)} bytes).")
    fault = header.fault
    if fault is None and header.size is not None and (too_large := frame_size_fault(*header.size)) is not None:
        fault = f"can't be read: {too_large}"
    if fault is not None:
        raise DataError(f"{os.fspath(path)}: {fault}.")
    try:
        image = decode_image(data, header, keep_grey=keep_grey)
    except UndecodableImageError as error:
        raise DataError(f"{path}: {error}.") from None
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: holds values of the kind {image.dtype}, not of 8 or 16 bits without sign.")
    if header.has_alpha:
        _refuse_transparency(path, data)
    return image, header


def _refuse_transparency(path: str | Path, data: bytes) -> None:
    whole: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if whole is None or whole.ndim < 3 or whole.shape[2] != 4:
        return
    opaque = np.iinfo(whole.dtype).max if whole.dtype != np.float32 else 1
    if whole[..., 3].min() < opaque:
        raise DataError(
            f"{path}: has transparent pixels, and what is to be seen through them is not known: save it without an alpha channel."
        )
