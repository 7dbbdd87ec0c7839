"""The part of a recording's images that is shown, and whether a patient's name may be burnt into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ultravid.datasets.masks import Masks
from ultravid.datasets.readers.source import CroppedSource, FrameSource, Region, enclosing, outside_of
from ultravid.datasets.video import DataError

__all__ = ["TEXT_FAULTS", "HasImageRegions", "Shown", "choose_shown"]

_NO_REGION = "DICOM files state no ultrasound region that can be used: names and dates may be burnt into what is shown"
_WHOLE = "DICOM files are shown with what is outside of their ultrasound region: names and dates may be burnt in there"
TEXT_FAULTS = (_NO_REGION, _WHOLE)
"""The kinds that `Shown.fault` may be."""


class HasImageRegions(Protocol):
    """What must be known of a recording to choose what is shown of it: see `FrameSource`, which has it."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the whole images."""

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """The parts that show a scan."""


@dataclass(frozen=True)
class Shown:
    """What frames show of their file's image.

    Attributes:
        crop: the part that is the frame; None: the whole image.
        blanked: parts of the image that are black.
        size: (height, width) of the frame.
        fault: why a patient's name may be shown, to continue a number of files; None if nothing suggests it.
    """

    crop: Region | None
    blanked: tuple[Region, ...]
    size: tuple[int, int]
    fault: str | None

    def of(self, source: FrameSource) -> FrameSource:
        """The frames of a source as they are shown."""
        if self.crop is None and not self.blanked:
            return source
        height, width = source.size
        return CroppedSource(source, self.crop or (0, 0, width, height), self.blanked)


def choose_shown(
    source: HasImageRegions,
    *,
    crop: bool,
    blank_outside_region: bool = False,
    region: int | None = None,
    masks: Masks | None = None,
    device: str = "",
) -> Shown:
    """What to show of a recording.

    A file with several regions, as of two views side by side, shows all of them, and black between them.

    Args:
        source: the source of whole images.
        crop: show the regions only, if the file states them.
        blank_outside_region: black out what is outside of the regions, if the file states them, and keep the image's size.
        region: of several regions show this one only, from 1, the largest first; None: all.
        masks: what to black out besides, by device and image size; where it says, it is relied on that no text is left.
        device: the device of the recording.

    Raises:
        DataError: the file states regions, and not so many.
    """
    height, width = source.size
    whole = (0, 0, width, height)
    parts = source.regions or ()
    if region is not None and parts:
        if not 1 <= region <= len(parts):
            raise DataError(f"{source.path}: has {len(parts)} ultrasound regions, there is no region {region}.")
        parts = parts[region - 1 : region]
    is_needed = not (parts and (crop or blank_outside_region))
    masked = masks.parts(device, source.size, is_needed=is_needed) if masks is not None else None
    blanked = list(masked or ())
    box = None
    if parts and blank_outside_region:
        blanked += outside_of(parts, whole)
    elif parts and crop:
        box = enclosing(parts)
        blanked += outside_of(parts, box)
    is_bare = source.regions is not None and masked is None
    fault = None
    if is_bare and not parts:
        fault = _NO_REGION
    elif is_bare and not (crop or blank_outside_region):
        fault = _WHOLE
    x1, y1, x2, y2 = box or whole
    return Shown(None if box == whole else box, tuple(blanked), (y2 - y1, x2 - x1), fault)
