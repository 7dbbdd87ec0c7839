"""Chooses the parts of a source that are black in every written picture and movie, because names and dates may be burnt in there.

The model never sees it: it gets the frames as they are, so that detections do not depend on what is blacked out.

Legend: ``H, W`` height and width of the source's image in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.source import ImageArray, Region
from ultravid.serving.privacy.burned_in_text import find_text
from ultravid.serving.privacy.scan_area import guess_scan_area
from ultravid.serving.privacy.scanner_masks import ScannerMasks

__all__ = ["Blackout", "BlackoutRule", "HasShownPart", "choose_blackout"]

_HOW_TO_STATE = "look at the QC sheet; state the parts with --mask FILE, or write all with --allow-burned-in-text"


class BlackoutRule(StrEnum):
    """The rule that decided which parts are blacked out."""

    NOTHING = "nothing"
    """The user wants everything written."""
    MASK = "mask"
    """The user's mask."""
    REGIONS = "regions"
    """The ultrasound regions that the file states."""
    GUESS = "guess"
    """What looks like text in the first frames, outside of what looks like the scan."""
    ALL = "all"
    """There is no frame to look at: everything is black."""


class HasShownPart(Protocol):
    """What of a stream of frames the choice looks at; every `RecordingStream` has it."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """As `RecordingStream.regions`."""

    @property
    def shown(self) -> Shown:
        """As `RecordingStream.shown`."""

    @property
    def metadata(self) -> Mapping[str, str | float]:
        """As `RecordingStream.metadata`."""


@dataclass(frozen=True, eq=False)
class Blackout:
    """The parts that are blacked out in pictures of a source.

    Attributes:
        kept: ``(H, W)`` uint8, 255 where the picture stays as it is, 0 where it is black. None: nothing is black.
        rule: what decided it.
        reason: the same in a sentence, for the report and the log; it quotes nothing of the source.
    """

    kept: NDArray[np.uint8] | None
    rule: BlackoutRule
    reason: str

    @property
    def guessed(self) -> bool:
        """Whether nothing states which part is the scan, so that a person should look at the QC sheet."""
        return self.rule in (BlackoutRule.GUESS, BlackoutRule.ALL)

    @property
    def share(self) -> float:
        """The share of the image that is black, 0 to 1."""
        return 0.0 if self.kept is None else float(1.0 - np.count_nonzero(self.kept) / self.kept.size)

    def apply(self, image: ImageArray) -> ImageArray:
        """``image``, ``(H, W, 3)`` or ``(H, W)`` of any dtype, with its parts black: a new array, or the given one if nothing is black.

        Raises:
            ValueError: the image has another size than the source.
        """
        if self.kept is None:
            return image
        if image.shape[:2] != self.kept.shape:
            shapes = f"{image.shape[1]}x{image.shape[0]} px, not {self.kept.shape[1]}x{self.kept.shape[0]}"
            raise ValueError(f"An image of this source has {shapes}.")
        return np.asarray(cv2.bitwise_and(image, image, mask=self.kept), np.uint8)

    def as_json(self) -> dict[str, Any]:
        """For a report: ``rule``, ``guessed``, ``share`` and ``reason`` by name."""
        return {
            "rule": self.rule.value,
            "guessed": self.guessed,
            "share": round(self.share, 4),
            "reason": self.reason,
        }


def choose_blackout(
    stream: HasShownPart,
    first_frames: Sequence[ImageArray],
    masks: ScannerMasks | None = None,
    allow: bool = False,
) -> Blackout:
    """The parts that are blacked out in pictures of a source.

    The first of these that says it decides:

    1. a mask of the user's, and with it the regions that the file states: what either leaves out is black;
    2. the user, who has looked and wants everything written (``allow``);
    3. the regions that the file states;
    4. a guess from the first frames: what looks like text (`find_text`) outside of what looks like the scan (`guess_scan_area`) is
       black, and nothing else; all is black only if there is no frame.

    Parts that are black for the model as well (`Shown.blanked`) are black here too, unless everything is written.

    Args:
        stream: the source.
        first_frames: whole images ``(H, W, 3)`` uint8, the more of the first 32 the better; not looked at unless it comes to a guess.
        masks: the masks of the user's.
        allow: write everything but what a mask of the user's leaves out.

    Raises:
        DataError: a mask for all sources does not fit this one.
    """
    regions = () if allow else (stream.regions or ())
    said = None
    if masks is not None:
        said = masks.kept(str(stream.metadata.get("device", "")), stream.size, is_needed=not regions and not allow)
    kept = np.ones(stream.size, np.bool_)
    if regions:
        kept = _inside(regions, stream.size)
    if said is not None:
        rule, reason = BlackoutRule.MASK, f"the mask says it{' and the file states regions' if regions else ''}"
        kept &= said
    elif allow:
        rule, reason = BlackoutRule.NOTHING, "everything is written, as asked"
    elif regions:
        rule, reason = BlackoutRule.REGIONS, "the file states its ultrasound regions"
    else:
        rule = BlackoutRule.GUESS if first_frames else BlackoutRule.ALL
        kept, what = _guessed(first_frames, stream.size)
        reason = f"{what}, as {_why_guessed(stream)}; {_HOW_TO_STATE}"
    for x1, y1, x2, y2 in () if allow else stream.shown.blanked:
        kept[y1:y2, x1:x2] = False
    return Blackout(None if kept.all() else kept.astype(np.uint8) * 255, rule, reason)


def _guessed(first_frames: Sequence[ImageArray], size: tuple[int, int]) -> tuple[NDArray[np.bool_], str]:
    """What is kept, ``(H, W)``, and what that is."""
    if not first_frames:
        return np.zeros(size, np.bool_), "all is black without a frame to look at"
    scan = guess_scan_area(first_frames)
    text = find_text(first_frames, scan)
    number = cv2.connectedComponents(text.astype(np.uint8), connectivity=8)[0] - 1
    if number == 0:
        return ~text, f"no text was found{'' if scan is None else ' outside of the scan'} in the first frames"
    areas = (
        "1 area with what looks like text is black"
        if number == 1
        else f"{number} areas with what looks like text are black"
    )
    return ~text, f"{areas}, guessed from the first frames"


def _why_guessed(stream: HasShownPart) -> str:
    if stream.regions is None:
        return "files of this kind do not state which part is the scan"
    return "the file states no ultrasound region that can be used"


def _inside(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.bool_]:
    kept = np.zeros(size, np.bool_)
    for x1, y1, x2, y2 in regions:
        kept[y1:y2, x1:x2] = True
    return kept
