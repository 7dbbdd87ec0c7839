"""Rotates and mirrors the frames of a movie as its display matrix states."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer

from ultravid.datasets.readers.source import ImageArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["Turn", "find_turn", "turn_fault", "turned"]

Turn = tuple[int, int, int, int]
"""(a, b, c, d), each -1, 0 or 1: a point (x, y) of the file's image is shown at (a x + c y, b x + d y), up to a shift."""

UNTURNED: Turn = (1, 0, 0, 1)
_ONE = 1 << 16
_ROUNDING = _ONE // 100


def find_turn(frame: VideoFrame) -> Turn | None:
    """The turn of a frame; None if it is no multiple of a right angle, or the matrix stretches or skews the image."""
    matrix = _matrix(frame)
    if matrix is None:
        return UNTURNED
    a, b, _, c, d = matrix
    turn = tuple(round(v / _ONE) for v in (a, b, c, d))
    near = all(abs(v - t * _ONE) <= _ROUNDING for v, t in zip((a, b, c, d), turn, strict=True))
    ones = sorted(map(abs, turn)) == [0, 0, 1, 1] and abs(turn[0] * turn[3] - turn[1] * turn[2]) == 1
    return (turn[0], turn[1], turn[2], turn[3]) if near and ones else None


def _matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The first five numbers of the display matrix: a, b, u, c, d, of which u is of perspective; None without one."""
    # `frame.side_data` would be kept by the frame, and it keeps the frame: its image would stay in memory until a garbage collection.
    container: Any = SideDataContainer  # PyAV's stubs give it no arguments
    data = container(frame).get("DISPLAYMATRIX")
    return None if data is None else struct.unpack_from("=5i", bytes(data))


def turn_fault(frame: VideoFrame) -> str:
    """What a frame's display matrix does that `find_turn` gives None for."""
    numbers = ", ".join(f"{v / _ONE:.3g}" for v in _matrix(frame) or ())
    return (
        f"is shown turned by {frame.rotation} degrees or stretched (display matrix {numbers}, ...), not by right angles"
    )


def turned(image: ImageArray, turn: Turn) -> ImageArray:
    """An image ``(H, W, 3)`` as it is shown."""
    if turn == UNTURNED:
        return image
    a, b, c, d = turn
    if a == 0:  # x' = c y, y' = b x
        image = image.swapaxes(0, 1)
    flip_x, flip_y = (a or c) < 0, (d or b) < 0
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
