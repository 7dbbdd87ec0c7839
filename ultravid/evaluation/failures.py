"""Finds the failures of a run: its false-positive sequences and the lesions that it misses.

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
    """A false-positive sequence or a missed lesion.

    Attributes:
        video: index of the video.
        frames: indices of the frames, ascending.
        score: highest score of the sequence; for a missed lesion the highest score that hits it, -inf if nothing does.
        detections: indices of the sequence's detections in the video, ascending; empty for a missed lesion.
        track: id of the missed lesion; None for a sequence.
    """

    video: int
    frames: IntArray
    score: float
    detections: IntArray
    track: int | None = None

    def own_detections(self, video: MatchedVideo, frame: int) -> set[int]:
        """The sequence's detections in one frame, as indices into the frame's detections."""
        first = int(np.searchsorted(video.frame, frame))
        return {int(d) - first for d in self.detections if video.frame[d] == frame}


def sequences(video: MatchedVideo, threshold: float) -> list[IntArray]:
    """The sequences of a video at a threshold (`video_metrics`): the indices of each sequence's detections, ascending."""
    kept = video.scores >= np.float32(threshold)
    root = np.arange(len(kept))
    for child, parent in video.links[kept[video.links].all(axis=1)].tolist():
        if (
            root[child] == child
        ):  # its first kept candidate has the highest IoU; the root of an earlier detection is final
            root[child] = root[parent]
    members = np.flatnonzero(kept)
    by_root = members[np.argsort(root[members], kind="stable")]
    return np.split(by_root, np.flatnonzero(np.diff(root[by_root])) + 1) if len(members) else []


def false_sequences(videos: Sequence[MatchedVideo], threshold: float) -> list[Failure]:
    """The false-positive sequences at a threshold, by falling highest score; empty if the threshold is nan."""
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
    """The lesions that are not hit in any frame at a threshold, by rising score, of equal ones the longest first.

    A threshold of nan means that no detection hits a lesion: then all lesions are missed.
    """
    limit = math.inf if math.isnan(threshold) else float(np.float32(threshold))
    missed = [track for track in lesion_tracks(videos) if track.found_score() < limit]
    missed.sort(key=lambda track: (track.found_score(), -len(track.frames)))
    no_detections = np.zeros(0, np.int64)
    return [Failure(t.video, t.frames, t.found_score(), no_detections, t.track_id) for t in missed]
