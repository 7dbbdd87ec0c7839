"""The records that the parts of serving pass to each other: frames with their time, and their detections.

A frame is named by its presentation time stamp, and counted: neither is ever computed from a frame rate if the source states a time.

Legend: ``H, W`` height and width of the source's image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultravid.datasets.readers.source import ImageArray

if TYPE_CHECKING:  # a process that only decodes needs no torch
    from ultravid.structures import Instances

__all__ = ["Detection", "FrameDetections", "TimedFrame"]


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """One frame of a source.

    Attributes:
        index: number of the frame in its source in the order in which frames are shown, from 0.
        pts_s: presentation time stamp in seconds, as the source states it: a movie's first frame need not be at 0.
        image: ``(H, W, 3)`` uint8 RGB: the whole image of the source, nothing of it cropped or blacked out.
    """

    index: int
    pts_s: float
    image: ImageArray


@dataclass(frozen=True)
class Detection:
    """A detected lesion in one frame.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the source's whole image.
        score: 0 to 1.
        class_id: place in the names of classes.
        track_id: number of the lesion track in the source, from 0; None without a tracker.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    track_id: int | None = None

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The detection as the result files and the page have it: ``box``, ``score``, ``class``, ``class_id`` and ``track_id``.

        Args:
            class_names: the name of each class of the model; a class without a name is called by its number.
        """
        return {
            "box": [round(v, 3) for v in self.box],
            "score": round(self.score, 6),
            "class": class_names[self.class_id] if self.class_id < len(class_names) else str(self.class_id),
            "class_id": self.class_id,
            "track_id": self.track_id,
        }


@dataclass(frozen=True)
class FrameDetections:
    """The detections in one frame, in descending order of score.

    Attributes:
        index: `TimedFrame.index`.
        pts_s: `TimedFrame.pts_s`.
        detections: may be empty.
    """

    index: int
    pts_s: float
    detections: tuple[Detection, ...] = ()

    @classmethod
    def of(
        cls, index: int, pts_s: float, instances: Instances, offset: tuple[float, float] = (0.0, 0.0)
    ) -> FrameDetections:
        """From a model's output.

        Args:
            index: the index of the frame.
            pts_s: the time stamp, in seconds, of the frame.
            instances: with ``pred_boxes``, ``scores``, ``pred_classes`` and, with a tracker, ``track_ids``.
            offset: (x, y) of the part of the image that the model was given, in pixels of the whole image.
        """
        boxes = instances.pred_boxes.tensor.double().cpu()
        x, y = offset
        track_ids = instances.track_ids.tolist() if instances.has("track_ids") else [None] * len(instances)
        rows = zip(
            *(boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), track_ids), strict=True
        )
        found = [
            Detection((b[0] + x, b[1] + y, b[2] + x, b[3] + y), score, label, None if track in (None, -1) else track)
            for b, score, label, track in rows
        ]
        return cls(index, pts_s, tuple(sorted(found, key=lambda d: -d.score)))

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The frame as the result files and the page have it: ``index``, ``pts_s`` and ``detections``.

        Args:
            class_names: as of `Detection.as_json`.
        """
        return {
            "index": self.index,
            "pts_s": self.pts_s,
            "detections": [detection.as_json(class_names) for detection in self.detections],
        }
