"""The largest inputs that readers accept.

Data may come from anywhere, and a few bytes can announce, or unpack to, more than a machine holds. Each bound is far above what
the field produces, and low enough that a file within it is read in bounded time and memory. What is beyond a bound is refused by name.
"""

from __future__ import annotations

from typing import Final, TypeGuard

__all__ = [
    "MAX_ANNOTATION_BYTES",
    "MAX_DEPTH",
    "MAX_FILLED",
    "MAX_FPS",
    "MAX_FRAMES",
    "MAX_FRAME_NUMBER",
    "MAX_IMAGE_BYTES",
    "MAX_NAME",
    "MAX_PIXELS",
    "MAX_PLAIN_VALUES",
    "MAX_PREDICTION_BYTES",
    "MAX_SIDE",
    "MAX_SIDECAR_BYTES",
    "MAX_TIME_S",
    "MAX_WHOLE",
    "MIN_FPS",
    "frame_size_fault",
    "is_rate",
    "is_whole",
]

MAX_SIDE: Final = 65_535
"""Width or height of a frame in pixels: the largest that JPEG and DICOM can state."""

MAX_PIXELS: Final = 1 << 26
"""Pixels of a frame: 8192 x 8192, 200 MB as RGB. Ultrasound has 0.3 to 3 million; its panoramas stay below 10."""

MAX_IMAGE_BYTES: Final = 1 << 29
"""Bytes of an image's file: `MAX_PIXELS` of 16-bit RGB without compression, and room for a header."""

MAX_FILLED: Final = 2_000_000
"""Boxes that are filled in between the key frames of a video's tracks: two in each of `MAX_FRAMES` frames."""

MAX_FRAMES: Final = 1_000_000
"""Frames of one video: nine hours at 30 frames a second. A scan lasts minutes."""

MAX_FRAME_NUMBER: Final = 2**53
"""Number of a frame along its film, of either sign: what float64, in which time is computed, holds exactly."""

MAX_TIME_S: Final = 1e9
"""Seconds of a frame's time stamp, of either sign: thirty years. Float64 resolves a tenth of a microsecond there."""

MAX_FPS: Final = 100_000.0
"""Frames per second: plane-wave imaging reaches some 10,000."""

MIN_FPS: Final = 1e-5
"""Frames per second: one in a day."""

MAX_ANNOTATION_BYTES: Final = 1 << 30
"""Bytes of an annotation file, which in memory take some ten times as many. CVA-BUS, of 25,000 frames, has 10 MB."""

MAX_SIDECAR_BYTES: Final = 1 << 20
"""Bytes of a file that describes one recording: seven values."""

MAX_PREDICTION_BYTES: Final = 1 << 30
"""Unpacked bytes of a video's prediction file: 100 boxes of 28 bytes in each of 380,000 frames, which is three hours."""

MAX_DEPTH: Final = 100
"""How many lists and objects lie inside each other. COCO has five; Python's own limit, near 1,000, ends in a traceback."""

MAX_NAME: Final = 1_024
"""Characters of a video's name, which becomes that of a folder: systems allow 255 for each of its parts."""

MAX_WHOLE: Final = 2**63 - 1
"""Whole numbers, of either sign: what 64 bits hold, in which ids and frame numbers are kept."""

MAX_PLAIN_VALUES: Final = 5_000_000
"""Values in a pickle, each counted as often as it is reached: a list may hold another twice, that one a third twice, and so on."""


def frame_size_fault(height: int, width: int) -> str | None:
    """What is wrong with a frame's stated height and width in pixels; None if a frame may have them."""
    if height <= 0 or width <= 0:
        return f"{width}x{height} px is not a size"
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        return f"{width}x{height} px is more than a frame may have ({MAX_PIXELS:,} px, {MAX_SIDE:,} a side)"
    return None


def is_rate(value: object) -> bool:
    """Whether a value can be a frame rate: a number from `MIN_FPS` to `MAX_FPS` frames per second."""
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_FPS <= value <= MAX_FPS


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number that 64 bits hold; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_WHOLE <= value <= MAX_WHOLE
