"""Pictures: PNG against Pillow and its checksums, JPEG against Pillow and the warnings of libjpeg."""

from __future__ import annotations

import functools
import io
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from tests.fuzz.harness import Complaint, Family, Files, Reading
from ultravid.datasets import Video, load_recordings
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image

__all__ = ["FAMILIES", "encoded", "frames_of", "picture", "png_bytes", "read_recordings"]

HEIGHT, WIDTH = 12, 16


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
    images = [
        encoded(grey, "PNG"),
        encoded(colour, "PNG"),
        encoded(Image.fromarray(np.dstack([picture(2, 3), np.full((HEIGHT, WIDTH), 255, np.uint8)])), "PNG"),
        encoded(colour.quantize(7), "PNG"),
        encoded(grey.convert("1"), "PNG"),
        bytes(cv2.imencode(".png", deep)[1].tobytes()),
        encoded(grey, "PNG", exif=_rotated()),
        encoded(grey, "PNG") + b"\0\0 after the end",
    ]
    return [{"a.png": data} for data in images]


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
        for number, frame in enumerate(video.frames):
            data = Path(frame.path).read_bytes()
            complain(data)
            expected = _decoded(data)
            found = read_frame_image(video, number)
            assert found.shape[:2] == expected.shape[:2], f"another size: {found.shape} for {expected.shape}"
            if expected.dtype == np.uint8:
                assert np.array_equal(found, expected), "other pixels: than Pillow decodes"
    if not reading.value:
        assert reading.said, "no picture: and nothing was said"


def _decoded(data: bytes) -> np.ndarray[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright if image.mode.startswith("I") else upright.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything
        raise Complaint(f"Pillow: {type(error).__name__}: {error}") from error


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
)
