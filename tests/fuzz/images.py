"""Pictures and stacks of them, against Pillow: PNG also against its checksums, JPEG against the warnings of libjpeg."""

from __future__ import annotations

import functools
import io
import os
import re
import struct
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin

from tests.fuzz.harness import Complaint, Family, Files, Reading
from ultravid.datasets import Video, load_recordings
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image

__all__ = ["FAMILIES", "encoded", "frames_of", "picture", "png_bytes", "read_recordings"]

HEIGHT, WIDTH = 12, 16
_MAX_SAMPLE_VALUE = 281  # of TIFF


def picture(seed: int, channels: int = 1) -> np.ndarray[Any, Any]:
    """A smooth picture with some noise: ``(12, 16)`` or ``(12, 16, channels)`` uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    smooth = 40 + 7 * rows + 5 * columns
    image = np.stack([smooth + 13 * c + rng.integers(0, 20, smooth.shape) for c in range(channels)], axis=-1)
    return np.clip(image, 0, 255).astype(np.uint8)[..., 0] if channels == 1 else np.clip(image, 0, 255).astype(np.uint8)


def png_bytes(seed: int) -> bytes:
    """A grey PNG."""
    return bytes(cv2.imencode(".png", picture(seed))[1].tobytes())


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _rotated() -> Any:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _png_seeds() -> Sequence[Files]:
    grey, colour = Image.fromarray(picture(0)), Image.fromarray(picture(1, 3))
    deep = picture(3).astype(np.uint16) * 257
    significant = PngImagePlugin.PngInfo()
    significant.add(b"sBIT", b"\x0c")
    images = [
        encoded(grey, "PNG"),
        encoded(colour, "PNG"),
        encoded(Image.fromarray(np.dstack([picture(2, 3), np.full((HEIGHT, WIDTH), 255, np.uint8)])), "PNG"),
        encoded(colour.quantize(7), "PNG"),
        encoded(grey.convert("1"), "PNG"),
        bytes(cv2.imencode(".png", deep)[1].tobytes()),
        encoded(grey, "PNG", exif=_rotated()),
        encoded(grey, "PNG") + b"\0\0 after the end",
        encoded(Image.fromarray(_deep(0)), "PNG", pnginfo=significant),
    ]
    dark_then_bright = {f"v/{n}.png": encoded(Image.fromarray(_deep(n)), "PNG") for n in range(2)}
    return [*({"a.png": data} for data in images), dark_then_bright]


def _deep(number: int) -> np.ndarray[Any, Any]:
    """A grey picture of 16 bits, of which the first uses 8 and the next 12."""
    return picture(number).astype(np.uint16) * (1, 16, 13)[number]


def _jpeg_seeds() -> Sequence[Files]:
    grey, colour = Image.fromarray(picture(0)), Image.fromarray(picture(1, 3))
    images = [
        encoded(grey, "JPEG"),
        encoded(colour, "JPEG", quality=90),
        encoded(colour, "JPEG", progressive=True),
        encoded(colour, "JPEG", restart_marker_blocks=1),
        encoded(grey, "JPEG", exif=_rotated()),
        encoded(colour, "JPEG", comment=b"a comment", optimize=True),
        encoded(grey, "JPEG") + b"\0\0 after the end",
    ]
    return [{"a.jpg": data} for data in images]


def _other_seeds() -> Sequence[Files]:
    grey, colour = Image.fromarray(picture(0)), Image.fromarray(picture(1, 3))
    deep = [Image.fromarray(_deep(number)) for number in range(3)]
    greys, colours = ([Image.fromarray(picture(n, channels)) for n in range(3)] for channels in (1, 3))
    images = [
        ("a.tif", encoded(grey, "TIFF")),
        ("a.tif", encoded(colour, "TIFF", compression="tiff_lzw")),
        ("a.tif", encoded(deep[1], "TIFF")),
        ("a.tif", encoded(deep[0], "TIFF", tiffinfo={_MAX_SAMPLE_VALUE: 4095})),
        ("a.tif", encoded(greys[0], "TIFF", save_all=True, append_images=greys[1:])),
        ("a.tif", encoded(colours[0], "TIFF", save_all=True, append_images=colours[1:], compression="packbits")),
        ("a.tif", encoded(deep[0], "TIFF", save_all=True, append_images=deep[1:])),
        ("a.bmp", encoded(grey, "BMP")),
        ("a.bmp", encoded(colour, "BMP")),
        ("a.webp", encoded(colour, "WEBP", lossless=True)),
        ("a.webp", encoded(colour, "WEBP", quality=80)),
        ("a.gif", encoded(grey, "GIF")),
        ("a.gif", encoded(colour.quantize(16), "GIF", interlace=0)),
    ]
    return [{name: data} for name, data in images]


def read_recordings(folder: Path, sink: FaultSink | None) -> list[Video]:
    """The recordings of a folder, each frame decoded."""
    videos = load_recordings(path=folder, faults=sink)
    for video in videos:
        for number in range(len(video)):
            read_frame_image(video, number)
    return videos


def frames_of(video: Video) -> list[np.ndarray[Any, Any]]:
    """Every frame of a video."""
    return [read_frame_image(video, number) for number in range(len(video))]


def _check(complain: Callable[[bytes], None], folder: Path, reading: Reading) -> None:
    for video in reading.value:
        expected = _expected(video, complain)
        found = frames_of(video)
        assert len(found) == len(expected), f"another number of frames: {len(found)} of {len(expected)}"
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert a.shape[:2] == b.shape[:2], f"another size: {a.shape} for {b.shape}"
            assert np.array_equal(a, b), f"other pixels: frame {number} than Pillow decodes"
    if not reading.value:
        assert reading.said, "no picture: and nothing was said"


def _expected(video: Video, complain: Callable[[bytes], None]) -> list[np.ndarray[Any, Any]]:
    """The pictures of all pages of a recording's files; those of 16 bits are brought to 8 by one scale for all of them."""
    pages: list[np.ndarray[Any, Any]] = []
    stated: list[int | None] = []
    for path in dict.fromkeys(frame.path for frame in video.frames):
        data = Path(path).read_bytes()
        complain(data)
        for page, bits in _decoded(data):
            pages.append(page)
            stated.append(bits)
    largest = max((int(page.max()) for page in pages if page.dtype != np.uint8), default=0)
    used = max(8, largest.bit_length() if stated[0] is None else 16 if largest >> stated[0] else stated[0])
    shown = [
        page if page.dtype == np.uint8 else (page.astype(np.int64) * 256 // 2**used).astype(np.uint8) for page in pages
    ]
    return [page if page.ndim == 3 else np.dstack([page] * 3) for page in shown]


def _decoded(data: bytes) -> list[tuple[np.ndarray[Any, Any], int | None]]:
    """Pillow's pages, grey of 16 bits or RGB of 8, and how many bits the file says are used of the former."""
    pages = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                for page in ImageSequence.Iterator(image):
                    upright = ImageOps.exif_transpose(page)
                    is_deep = page.mode.startswith("I")
                    pages.append(
                        (np.asarray(upright if is_deep else upright.convert("RGB")), _stated_bits(image, data))
                    )
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything
        raise Complaint(f"Pillow: {type(error).__name__}: {error}") from error
    return pages


def _stated_bits(image: Image.Image, data: bytes) -> int | None:
    if image.format == "TIFF":
        largest = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        return None if largest is None else int(np.max(largest)).bit_length()
    at, kind = 8, b""
    while image.format == "PNG" and kind != b"IDAT":
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"sBIT":
            return data[at + 8]
        at += length + 12
    return None


def _check_png_sums(data: bytes) -> None:
    try:
        Image.open(io.BytesIO(data)).verify()
    except Exception as error:
        raise Complaint(f"Pillow's checksums: {error}") from error


def _check_jpeg_warnings(data: bytes) -> None:
    warning = libjpeg_warning(data)
    if warning:
        raise Complaint(f"libjpeg: {warning}")


def libjpeg_warning(data: bytes) -> str:
    """What libjpeg, in OpenCV, writes to the standard error output about a picture."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    return "; ".join(line for line in lines if re.search("Corrupt|Premature|Inconsistent|Invalid|Unsupported", line))


FAMILIES = (
    Family(
        "png",
        _png_seeds,
        ["*.png"],
        read_recordings,
        functools.partial(_check, _check_png_sums),
        said_of_sound="guessed",
    ),
    Family("jpeg", _jpeg_seeds, ["*.jpg"], read_recordings, functools.partial(_check, _check_jpeg_warnings)),
    Family(
        "other-images",
        _other_seeds,
        ["a.*"],
        read_recordings,
        functools.partial(_check, lambda data: None),
        said_of_sound="guessed|largest value",
    ),
)
