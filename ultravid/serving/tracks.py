"""Summaries of the lesion tracks of a recording; imports nothing of torch.

Boxes are XYXY in pixels of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ultravid.serving.records import Detection, FrameDetections

__all__ = ["TrackCollector", "TrackSummary", "summarize_tracks"]


@dataclass(frozen=True)
class TrackSummary:
    """A summary of a lesion track at the end of a recording.

    Attributes:
        track_id: its number.
        class_id: the class whose scores in it have the largest sum.
        first_index: number of the first frame in which it was found.
        last_index: the index of the last one.
        first_pts_s: time stamp of the first frame, in seconds.
        last_pts_s: the time stamp of the last one.
        num_detections: number of frames in which it was found.
        best: the detection with the highest score, the first of several.
        best_index: number of its frame.
        best_pts_s: time stamp of its frame.
    """

    track_id: int
    class_id: int
    first_index: int
    last_index: int
    first_pts_s: float
    last_pts_s: float
    num_detections: int
    best: Detection
    best_index: int
    best_pts_s: float

    @property
    def num_frames(self) -> int:
        """Length in frames of the source, from the first to the last, those without a detection between them included."""
        return self.last_index - self.first_index + 1

    @property
    def length_s(self) -> float:
        """Length in seconds, from the first frame's time stamp to the last one's; 0 for a single frame."""
        return self.last_pts_s - self.first_pts_s

    @property
    def best_score(self) -> float:
        """The score of `best`."""
        return self.best.score

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The track as the result files and the page have it, its fields by name.

        Args:
            class_names: as of `Detection.as_json`.
        """
        return {
            "track_id": self.track_id,
            "class": class_names[self.class_id] if self.class_id < len(class_names) else str(self.class_id),
            "class_id": self.class_id,
            "first_index": self.first_index,
            "last_index": self.last_index,
            "first_pts_s": self.first_pts_s,
            "last_pts_s": self.last_pts_s,
            "num_frames": self.num_frames,
            "length_s": round(self.length_s, 6),
            "num_detections": self.num_detections,
            "best_score": round(self.best.score, 6),
            "best_index": self.best_index,
            "best_pts_s": self.best_pts_s,
            "best_box": [round(v, 3) for v in self.best.box],
        }


class TrackCollector:
    """Collects the tracks of a recording, frame after frame; its memory grows with the number of tracks, not of frames."""

    def __init__(self) -> None:
        self._open: dict[int, _Track] = {}

    def add(self, frame: FrameDetections) -> None:
        """Add ``frame``, the detections of the next frame."""
        for detection in frame.detections:
            if detection.track_id is None:
                continue
            if detection.track_id not in self._open:
                self._open[detection.track_id] = _Track(frame, detection)
            self._open[detection.track_id].add(frame, detection)

    def summaries(self) -> list[TrackSummary]:
        """The tracks so far, by their number."""
        return [track.summary() for _, track in sorted(self._open.items())]


class _Track:
    def __init__(self, frame: FrameDetections, detection: Detection) -> None:
        self.first = self.last = self.best_frame = (frame.index, frame.pts_s)
        self.best = detection
        self.num_detections = 0
        self.score_of_class: dict[int, float] = {}

    def add(self, frame: FrameDetections, detection: Detection) -> None:
        self.last = (frame.index, frame.pts_s)
        self.num_detections += 1
        self.score_of_class[detection.class_id] = self.score_of_class.get(detection.class_id, 0.0) + detection.score
        if detection.score > self.best.score:
            self.best, self.best_frame = detection, self.last

    def summary(self) -> TrackSummary:
        assert self.best.track_id is not None
        return TrackSummary(
            track_id=self.best.track_id,
            class_id=max(self.score_of_class, key=lambda c: (self.score_of_class[c], -c)),
            first_index=self.first[0],
            last_index=self.last[0],
            first_pts_s=self.first[1],
            last_pts_s=self.last[1],
            num_detections=self.num_detections,
            best=self.best,
            best_index=self.best_frame[0],
            best_pts_s=self.best_frame[1],
        )


def summarize_tracks(frames: Iterable[FrameDetections]) -> list[TrackSummary]:
    """The lesion tracks of a recording, by their number.

    Args:
        frames: the frames of one recording, in their order.
    """
    collector = TrackCollector()
    for frame in frames:
        collector.add(frame)
    return collector.summaries()
