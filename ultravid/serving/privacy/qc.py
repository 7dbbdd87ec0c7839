"""Pictures in which a person checks what is blacked out of each source. Blacked-out areas are hatched, never shown.

Legend: ``H, W`` height and width of the source's image in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.privacy.blackout import Blackout, BlackoutRule
from ultravid.utils.file_io import replace_file

__all__ = ["qc_picture", "write_contact_sheets", "write_qc_picture"]

_TILE = 360  # px, the longer side of a source's image
_LINE = 16  # px of text
_SHEET = 40  # tiles
_HATCH_DARK, _HATCH_LIGHT, _TEXT = (46, 46, 58), (86, 86, 104), (225, 225, 225)  # RGB
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def qc_picture(image: ImageArray, blackout: Blackout, name: str) -> ImageArray:
    """One source's picture: its image with the blacked-out parts hatched, and below it what decided about them.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, any frame of the source.
        blackout: the blackout of the source.
        name: under which its outputs are written.
    """
    kept = np.full(image.shape[:2], 255, np.uint8) if blackout.kept is None else blackout.kept
    scale = _TILE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    # Black before it is made smaller: no pixel of the picture is a mean with one that is not shown.
    shown = cv2.resize(blackout.apply(image), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    is_kept = cv2.resize(kept, size, interpolation=cv2.INTER_NEAREST) > 0
    rows, columns = np.mgrid[: size[1], : size[0]]
    hatch = np.where(((rows + columns) // 4 % 2 == 0)[..., None], _HATCH_DARK, _HATCH_LIGHT).astype(np.uint8)
    lines = [name, _described(blackout)]
    width = max(size[0], *(cv2.getTextSize(_printable(line), _FONT, 0.38, 1)[0][0] + 6 for line in lines))
    picture = np.zeros((size[1] + len(lines) * _LINE + 4, width, 3), np.uint8)
    picture[: size[1], : size[0]] = np.where(is_kept[..., None], shown, hatch)
    for number, line in enumerate(lines, start=1):
        at = (3, size[1] + number * _LINE - 3)
        cv2.putText(picture, _printable(line), at, _FONT, 0.38, _TEXT, 1, cv2.LINE_AA)
    return picture


def write_qc_picture(path: Path, image: ImageArray, blackout: Blackout, name: str) -> ImageArray:
    """Write a source's picture as a PNG, and return it for a contact sheet.

    Args:
        path: where it is written.
        image: a frame of the source, ``(H, W, 3)`` uint8, RGB.
        blackout: what is blacked out; it is hatched in the picture.
        name: the name of the source, which the picture shows.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        OSError: it can't be written.
    """
    picture = qc_picture(image, blackout, name)
    _write(path, picture)
    return picture


def write_contact_sheets(folder: Path, pictures: Sequence[ImageArray], stem: str = "qc") -> list[Path]:
    """Write pictures of many sources as ``qc.png``, with more than 40 as ``qc_1.png``, ``qc_2.png``, ...

    Args:
        folder: where the files are written.
        pictures: ``(H, W, 3)`` uint8 each, of any sizes.
        stem: the first part of the files' names.

    Returns:
        The files.

    Raises:
        OSError: one can't be written.
    """
    parts = [pictures[at : at + _SHEET] for at in range(0, len(pictures), _SHEET)]
    paths = [folder / (f"{stem}.png" if len(parts) == 1 else f"{stem}_{n}.png") for n in range(1, len(parts) + 1)]
    for path, part in zip(paths, parts, strict=True):
        columns = max(1, round(math.sqrt(len(part) * 4 / 3)))
        height, width = max(p.shape[0] for p in part) + 6, max(p.shape[1] for p in part) + 6
        sheet = np.zeros((math.ceil(len(part) / columns) * height, columns * width, 3), np.uint8)
        for number, picture in enumerate(part):
            top, left = number // columns * height, number % columns * width
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        _write(path, sheet)
    return paths


def _described(blackout: Blackout) -> str:
    share = "nothing" if blackout.share == 0 else "<1%" if blackout.share < 0.01 else f"{blackout.share:.0%}"
    how = {
        BlackoutRule.NOTHING: ", as asked",
        BlackoutRule.MASK: " by the mask",
        BlackoutRule.REGIONS: " outside the file's regions",
        BlackoutRule.GUESS: " (a guess): please check",
        BlackoutRule.ALL: ": no frame to look at",
    }
    return f"{share} blacked out{how[blackout.rule]}"


def _printable(text: str) -> str:
    """OpenCV's letters are ASCII."""
    return text.encode("ascii", "replace").decode()


def _write(path: Path, picture: ImageArray) -> None:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "a picture of 8 bits"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(data.tobytes())
