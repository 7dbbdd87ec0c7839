"""Chooses the video of each training clip: all in turn, a share of negative videos, entries of a list of hard ones, and static clips.

Everything is a function of (seed, number of the clip). Shares are exact, because the clips of a kind are spread evenly instead
of drawn: of clips 0, 1, 2, ... number ``n`` is of a kind with share ``p`` if ``floor((n + 1) p) > floor(n p)``, and it is then
the kind's clip number ``floor(n p)``. So each kind goes through its videos in turn, whatever other kinds are in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.data.mining import HardMining
from ultravid.datasets.video import DataError, Video
from ultravid.utils.limits import Share

__all__ = ["ClipPlanner", "PlannedClip", "StaticClips", "VideoOrder"]

# Streams of one seed, see also `ultravid.data.mapper`; the last number is the kind of video.
_OF_THE_ORDER, _OF_THE_MINED = 2, 3


@dataclass(frozen=True)
class PlannedClip:
    """The source of a clip.

    Attributes:
        video: place among the videos.
        frame: a frame that the clip must hold; None: the frame sampler chooses freely.
    """

    video: int
    frame: int | None = None


class VideoOrder:
    """Places 0 to ``num_videos - 1`` in turn, in another order each time round.

    Args:
        num_videos: at least one.
        seed: the seed of the orders.
        kind: a name for the kind of videos; each kind has its own orders.
    """

    def __init__(self, num_videos: int, seed: int, kind: tuple[int, ...] = ()) -> None:
        self.num_videos = num_videos
        self.seed = seed
        self.kind = kind
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __call__(self, number: int) -> int:
        """The place with a number from 0 on, without end."""
        turn, place = divmod(number, self.num_videos)
        if self._order[0] != turn:
            rng = np.random.default_rng((self.seed, _OF_THE_ORDER, turn, *self.kind))
            self._order = (turn, rng.permutation(self.num_videos))
        return int(self._order[1][place])


class ClipPlanner:
    """Chooses the video of the n-th clip of a run, and the frame that it must hold, if any.

    Args:
        videos: that are trained on.
        seed: the seed of everything that is drawn.
        negative_share: share of videos without a lesion among the clips that are not mined; 0 skips these videos. None uses
            all videos alike.
        mining: also train on the entries of a list.

    Raises:
        DataError: a share is out of range, or there is no video of a kind that is needed.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        seed: int,
        *,
        negative_share: float | None = None,
        mining: HardMining | None = None,
    ) -> None:
        self.seed = seed
        self.negative_share = negative_share
        self._places = _by_lesions(videos, negative_share)
        kinds: list[tuple[int, ...]] = [()] if negative_share is None else [(1,), (2,)]
        self._orders = [
            VideoOrder(max(len(places), 1), seed, kind) for places, kind in zip(self._places, kinds, strict=True)
        ]
        self._mined_share = self._frame_share = 0.0
        if mining is not None:
            self._set_mining(videos, mining)

    @property
    def holds_frames(self) -> bool:
        """Whether some clips must hold a frame."""
        return self._frame_share > 0

    def __call__(self, number: int) -> PlannedClip:
        """The source of clip ``number``."""
        mined, number_of_kind = _is_of(number, self._mined_share)
        if mined:
            by_frame, _ = _is_of(number_of_kind, self._frame_share)
            rng = np.random.default_rng((self.seed, _OF_THE_MINED, number))
            if by_frame:
                return PlannedClip(*self._frames[int(rng.integers(len(self._frames)))])
            return PlannedClip(int(self._videos[rng.choice(len(self._videos), p=self._weights)]))
        if self.negative_share is None:
            return PlannedClip(self._orders[0](number_of_kind))
        negative, number_of_kind = _is_of(number_of_kind, self.negative_share)
        return PlannedClip(self._places[negative][self._orders[negative](number_of_kind)])

    def _set_mining(self, videos: Sequence[Video], mining: HardMining) -> None:
        both = mining.video_rate + mining.frame_rate
        if both == 0:
            return
        self._mined_share = both / (1 + both)
        self._frame_share = mining.frame_rate / both
        listed = mining.listed_videos(videos) if mining.video_rate else []
        self._videos = [place for place, _ in listed]
        self._weights = np.array([weight for _, weight in listed]) / sum(weight for _, weight in listed)
        self._frames = mining.listed_frames(videos) if mining.frame_rate else []


def _is_of(number: int, share: float) -> tuple[bool, int]:
    """Whether clip ``number`` is of a kind, and its number among the clips of that kind, or among the others."""
    before, after = math.floor(number * share), math.floor((number + 1) * share)
    return (True, before) if after > before else (False, number - before)


def _by_lesions(videos: Sequence[Video], negative_share: float | None) -> list[list[int]]:
    """The places of all videos; with a share, those of the videos with a lesion and of those without."""
    if negative_share is None:
        return [list(range(len(videos)))]
    if not 0 <= negative_share < 1:
        raise DataError(f"negative_share={negative_share} is not a share from 0 to below 1.")
    negative = [not video.boxes_per_frame.any() for video in videos]
    sides = [[i for i, n in enumerate(negative) if not n], [i for i, n in enumerate(negative) if n]]
    if not sides[1] and negative_share > 0:
        raise DataError(
            f"negative_share={negative_share} needs videos without a lesion; all {len(videos)} training videos have one."
        )
    return sides


class StaticClips:
    """Makes some clips static: one frame repeated, as if the probe were held still.

    Args:
        rate: probability that a clip is made static.
        anywhere: use any frame of any video; otherwise only frames in which the probe is held still (`Video.static_frames`),
            and no video without such frames.

    Raises:
        DataError: the rate is not in 0 to 1.
    """

    def __init__(self, *, rate: Share, anywhere: bool = False) -> None:
        if not 0 <= rate <= 1:
            raise DataError(f"rate={rate} is not a probability from 0 to 1.")
        self.rate = rate
        self.anywhere = anywhere

    def check(self, videos: Sequence[Video]) -> None:
        """Raise if no clip of these videos could be made static.

        Raises:
            DataError: no video has ``static_frames``.
        """
        if self.rate > 0 and not self.anywhere and not any(video.static_frames for video in videos):
            raise DataError(
                f"Static clips (rate={self.rate}) are made of static_frames, which none of the {len(videos)} training videos "
                "has; anywhere=True uses any frame."
            )

    def frame_of(self, video: Video, rng: np.random.Generator) -> int | None:
        """The index of the frame that a clip of ``video`` repeats, drawn from ``rng``; None if the clip is not made static."""
        stretches: Sequence[tuple[int, int]] = [(0, len(video) - 1)] if self.anywhere else video.static_frames
        if not stretches or rng.random() >= self.rate:
            return None
        lengths: NDArray[Any] = np.array([last + 1 - first for first, last in stretches])
        place = int(rng.integers(lengths.sum()))
        stretch = int(np.searchsorted(lengths.cumsum(), place, side="right"))
        return int(stretches[stretch][0] + place - lengths[:stretch].sum())
