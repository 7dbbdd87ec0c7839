"""The interface of every source of frames: files read once from their first frame to their last, and live ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.source import Region
from ultravid.serving.records import TimedFrame

__all__ = ["RecordingStream"]


class RecordingStream(Protocol):
    """Frames of one source in the order in which they are shown, decoded once; memory does not grow with their number."""

    @property
    def name(self) -> str:
        """A short name for messages and output files; it reveals nothing about a patient."""

    @property
    def path(self) -> Path | None:
        """The file or folder; None for a camera or a network stream. It may hold a patient's name: it is opened, and never written."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the source's images in pixels."""

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """The parts that show a scan, as of `FrameSource.regions`: () if a file states none that can be used, None if its kind states none."""

    @property
    def shown(self) -> Shown:
        """The part of the images that the model gets, and what of them is black; `Shown.crop` None: the whole image."""

    @property
    def fps(self) -> float | None:
        """Frames per second as far as the source states them; for display only. Frames have their own time stamps."""

    @property
    def time_base(self) -> Fraction | None:
        """Seconds a tick of the source's clock: `TimedFrame.pts_s` is a whole number of ticks, to a float's rounding. None without one.

        A movie that is written of the frames has this clock, so that its time stamps are the source's, exactly.
        """

    @property
    def num_frames(self) -> int | None:
        """How many frames the source is expected to have; None if that is not known, as of a live source."""

    @property
    def states_num_frames(self) -> bool:
        """Whether the source states `num_frames`. If not, it is an estimate from duration and rate, much too large for a movie with pauses."""

    @property
    def is_live(self) -> bool:
        """Whether frames come at their own pace, so that those that come too fast are dropped."""

    @property
    def metadata(self) -> Mapping[str, str | float]:
        """``device``, ``spacing_mm``, ``organ``, as in `Video.metadata`; never the patient."""

    @property
    def repairs(self) -> Sequence[tuple[str, str]]:
        """What was guessed or repaired in the source: kind and message, as in `FrameSource.repairs`."""

    @property
    def damage(self) -> Sequence[str]:
        """What could not be read, once the frames have been iterated over: a movie that was cut off, say. Empty: all was read."""

    def __iter__(self) -> Iterator[TimedFrame]:
        """Iterates over the frames, once.

        Raises:
            DataError: nothing of the source can be decoded. What is damaged behind a first frame ends the iteration, and is in `damage`.
        """

    def close(self) -> None:
        """Close the source; an iteration that is under way ends."""
