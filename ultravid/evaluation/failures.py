"""The places of a run that are worth a look: its false-positive sequences and the lesions that it misses.

Legend: ``N`` detections and ``F`` frames of a video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.lesion_metrics import lesion_tracks
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.video_metrics import GOOD_SHARE

__all__ = ["Failure", "false_sequences", "missed_lesions", "sequences"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Failure:
    """A stretch of a video.

    Attributes:
        video: place of the video.
        frames: places of its frames, ascending.
        score: of a false-positive sequence its highest; of a missed lesion the highest that hits it, -inf where nothing
            does.
        detections: of a false-positive sequence, places of its detections in the video, ascending; else empty.
        track: of a missed lesion; None of a sequence.
    """

    video: int
    frames: IntArray
    score: float
    detections: IntArray
    track: int | None = None

    def own_detections(self, video: MatchedVideo, frame: int) -> set[int]:
        """Which of a frame's detections are the sequence's, by their order in the frame."""
        first = int(np.searchsorted(video.frame, frame))
        return {int(d) - first for d in self.detections if video.frame[d] == frame}


def sequences(video: MatchedVideo, threshold: float) -> list[IntArray]:
    """The detections of each sequence of a video among those that score at least the threshold, see `video_metrics`."""
    kept = video.scores >= np.float32(threshold)
    root = np.arange(len(kept))
    for child, parent in video.links[kept[video.links].all(axis=1)].tolist():
        if root[child] == child:  # the best candidate that is kept comes first; an earlier detection's root is settled
            root[child] = root[parent]
    members = np.flatnonzero(kept)
    by_root = members[np.argsort(root[members], kind="stable")]
    return np.split(by_root, np.flatnonzero(np.diff(root[by_root])) + 1) if len(members) else []


def false_sequences(videos: Sequence[MatchedVideo], threshold: float) -> list[Failure]:
    """The sequences that `video_metrics` counts as false at a threshold, by falling highest score; none where it is nan."""
    if math.isnan(threshold):
        return []
    found = []
    for place, video in enumerate(videos):
        for members in sequences(video, threshold):
            if video.centre_hits[members].sum() / len(members) <= GOOD_SHARE:
                frames = np.unique(video.frame[members])
                found.append(Failure(place, frames, float(video.scores[members].max()), members))
    return sorted(found, key=lambda failure: -failure.score)


def missed_lesions(videos: Sequence[MatchedVideo], threshold: float) -> list[Failure]:
    """The lesions of which no frame is hit at a threshold, by rising score, of equal ones the longest first.

    Where the threshold is nan, no lesion is ever hit, and all are missed.
    """
    limit = math.inf if math.isnan(threshold) else float(np.float32(threshold))
    missed = [track for track in lesion_tracks(videos) if track.found_score() < limit]
    missed.sort(key=lambda track: (track.found_score(), -len(track.frames)))
    none = np.zeros(0, np.int64)
    return [Failure(t.video, t.frames, t.found_score(), none, t.track_id) for t in missed]
