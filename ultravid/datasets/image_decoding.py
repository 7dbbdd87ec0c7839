"""Decodes the pixels of image files, and detects damage that OpenCV ignores.

OpenCV returns an image for many damaged files: what libjpeg, libpng and libtiff warn of goes to the standard error alone.
Therefore simplejpeg decodes JPEG: it is libjpeg-turbo as in OpenCV, gives the same pixels in the same time, and raises on every
warning. The checksums of a PNG are compared here, and Pillow, which raises where libtiff complains, decodes a compressed TIFF too.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ultravid.datasets.image_headers import JPEG_NO_LENGTH, JPEG_SCAN, JPEG_SIZES, ImageHeader

__all__ = ["UndecodableImageError", "check_jpeg", "decode_image"]

if "OPENCV_LOG_LEVEL" not in os.environ:  # a failed decode is an error of ours that names the file
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = NDArray[Any]

_KNOWN_SAMPLING: Final = frozenset((luma, 0x11, 0x11) for luma in (0x11, 0x21, 0x22, 0x12, 0x41))
"""The sampling factors of colours that simplejpeg reads: 4:4:4, 4:2:2, 4:2:0, 4:4:0 and 4:1:1."""

_PNG_PIXELS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})  # on which pixels depend
_TIFF_COMPRESSION, _TIFF_JPEG, _TIFF_JPEG_TABLES = 259, 7, 347
_TIFF_PARTS: Final = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles

_UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {  # by Exif orientation
    1: lambda image: image,
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class UndecodableImageError(ValueError):
    """An image can't be decoded, or only in part. The message says why, to follow the name of the file, page or frame."""


def decode_image(data: bytes, header: ImageHeader, *, keep_grey: bool = False, page: int | None = None) -> Pixels:
    """An image as ``(H, W, 3)`` RGB with the depth of the file, upright by its Exif orientation.

    Args:
        data: the file's content.
        header: what it states about itself.
        keep_grey: return a grey image as ``(H, W)`` instead.
        page: which page of a TIFF of several.

    Raises:
        UndecodableImageError: it is damaged, or of a kind that is not read.
    """
    if header.kind == "JPEG":
        image = _decode_jpeg(data, keep_grey and header.is_grey)
        return _UPRIGHT[header.orientation](image)
    if header.kind == "PNG":
        data = _sound_png(data)
    elif header.kind == "WebP":  # its decoder reads on behind the end that a damaged file states
        data = data[: 8 + int.from_bytes(data[4:8], "little")]
    colours = cv2.IMREAD_ANYCOLOR if keep_grey else cv2.IMREAD_COLOR
    decoded = _decode_by_opencv(data, header.kind, colours | cv2.IMREAD_ANYDEPTH, page)
    if header.is_compressed:
        _check_tiff(data, page or 0)
    return decoded if decoded.ndim == 2 else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def check_jpeg(data: bytes, kind: str = "JPEG") -> None:
    """Look for damage in a JPEG whose pixels are decoded elsewhere: it is decoded at an eighth of its size, in half the time.

    Args:
        data: the JPEG.
        kind: the kind of the file that holds it, for the message.

    Raises:
        UndecodableImageError: it is damaged, or of a kind that is not read.
    """
    _decode_jpeg(data, kind=kind, min_height=1, min_width=1, min_factor=8)


def _decode_jpeg(data: bytes, grey: bool = False, *, kind: str = "JPEG", **scale: int) -> Pixels:
    try:
        image = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", **scale)
    except ValueError as error:
        if "bad ICC" not in str(error):
            raise _jpeg_error(kind, data, str(error)) from None
        # Pixels don't depend on a colour profile: without its name it is a note that libjpeg skips.
        return _decode_jpeg(data.replace(b"ICC_PROFILE\0", b"ICC_DAMAGED\0"), grey, kind=kind, **scale)
    return image[..., 0] if grey else image


def _jpeg_error(kind: str, data: bytes, text: str) -> UndecodableImageError:
    if "subsampling" in text:  # simplejpeg says so of most damage before the pixels, too
        factors = _sampling_factors(data)
        if len(factors) > 1 and factors not in _KNOWN_SAMPLING:
            return UndecodableImageError(
                f"is a {kind} whose colours are subsampled in a way that is not read: save it as 4:4:4, 4:2:2 or 4:2:0"
            )
        return _damaged(kind, "what comes before its pixels can't be read")
    return _damaged(kind, re.sub(r"^Warning: |^tj\w+\(\): ", "", text))


def _sampling_factors(data: bytes) -> tuple[int, ...]:
    """The sampling factors of a JPEG's channels, 0x21 for 2 columns and 1 row; empty if its segments before the pixels are not sound."""
    factors: tuple[int, ...] = ()
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == JPEG_SCAN:
            return factors
        if marker in JPEG_SIZES:
            frame = data[at + 4 : at + 2 + length]
            factors = tuple(frame[7::3])
            is_sound = length == 8 + 3 * len(factors) and len(factors) == int.from_bytes(frame[5:6], "big")
            if not is_sound or any(f >> 4 not in range(1, 5) or f & 15 not in range(1, 5) for f in factors):
                return ()
        at += 1 if marker == 0xFF else 2 if marker in JPEG_NO_LENGTH else 2 + length
    return ()


def _damaged(kind: str, detail: str) -> UndecodableImageError:
    return UndecodableImageError(f"is a damaged {kind}{f' ({detail})' if detail else ''}")


def _sound_png(data: bytes) -> bytes:
    """The chunks of a PNG on which its pixels depend, after the checksums of all were compared.

    libpng prints a warning about others for each image, such as a colour profile that it does not like.
    """
    skips = False
    for kind, chunk in _png_chunks(data):
        if int.from_bytes(chunk[-4:], "big") != zlib.crc32(chunk[4:-4]):
            name = kind.decode("ascii") if kind.isalpha() else "unknown"
            raise _damaged("PNG", f"wrong checksum of its {name} chunk")
        skips = skips or kind not in _PNG_PIXELS
    if not skips:
        return data
    return data[:8] + b"".join(chunk for kind, chunk in _png_chunks(data) if kind in _PNG_PIXELS)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, all bytes) of each chunk up to the last."""
    view = memoryview(data)
    at, kind = 8, b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            raise _damaged("PNG", "its end is missing")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at:end]
        at = end


def _decode_by_opencv(data: bytes, kind: str, flags: int, page: int | None) -> Pixels:
    array = np.frombuffer(data, np.uint8)
    try:
        if page is None:
            image = cv2.imdecode(array, flags)
        else:
            found, pages = cv2.imdecodemulti(array, flags, range=(page, page + 1))
            image = pages[0] if found and pages else None
    except cv2.error as error:
        raise _damaged(kind, str(error.err or "")) from None
    if image is None:
        raise _damaged(kind, "")
    return image


def _check_tiff(data: bytes, page: int) -> None:
    """Look for damage in the compressed pixels of a TIFF, of which OpenCV decodes what it can."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # of tags
            image.seek(page)
            tags = getattr(image, "tag_v2", {})
            compression = tags.get(_TIFF_COMPRESSION, 1)
            if compression == 1:
                return
            for part in _tiff_parts(data, tags) if compression == _TIFF_JPEG else ():
                check_jpeg(part, "TIFF")
            image.load()
    except UnidentifiedImageError:
        return  # OpenCV reads more kinds of pixels than Pillow knows
    except (UndecodableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow raises nearly anything
        raise _damaged("TIFF", str(error)) from None


def _tiff_parts(data: bytes, tags: Mapping[int, Any]) -> Iterator[bytes]:
    """The JPEGs in a TIFF, each with the tables that they share."""
    tables = bytes(tags.get(_TIFF_JPEG_TABLES, b""))
    for offsets, lengths in _TIFF_PARTS:
        for at, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            part = data[at : at + length]
            yield tables.removesuffix(b"\xff\xd9") + part[2:] if tables else part
