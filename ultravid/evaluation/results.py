"""Detections and ground truth of videos, before (`VideoResult`) and after (`MatchedVideo`) their boxes are compared.

Legend: ``F`` frames, ``N`` detections and ``M`` lesion boxes, of a frame or of a whole video as stated; ``L`` links; ``R`` regions to
ignore in a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.frame_times import FrameTimes, frame_times, order_fault
from ultravid.datasets.video import FrameView
from ultravid.utils.errors import UserError

__all__ = ["FrameResult", "MatchedClasses", "MatchedVideo", "VideoResult", "frame_text"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Ground truth and detections of a frame.

    Attributes:
        frame_index: place of the frame in its video.
        image_id: id of the frame in the annotation file.
        gt_boxes: ``(M, 4)`` float32, lesion boxes, XYXY, pixels.
        boxes: ``(N, 4)`` float32, detections, XYXY, pixels.
        scores: ``(N,)`` float32.
        gt_track_ids: ``(M,)`` int64, the same id for one lesion along its video; None if unknown: see ``track_ids``.
        gt_classes: ``(M,)`` int64, number of the class; None if unknown.
        classes: ``(N,)`` int64, number of the class; None if unknown.
        file_name: image file of the frame; None if unknown. No metric uses it.
        frame_number: number of the frame along the film, at the video's frame rate; None: ``frame_index``.
        time_s: its time stamp, seconds from the film's start; None: its number over the frame rate.
        ignored: ``(R, 4)`` float32, regions to ignore, XYXY, pixels: they are no lesions, and detections on them count neither as right nor
            as wrong (`matching.without_ignored`). None: there are none.
        ignored_crowds: ``(R,)`` bool, whether a region holds many objects; None: none does.
        view: what the frame shows of ``file_name``; None if unknown. No metric uses it.
    """

    frame_index: int
    image_id: int | str
    gt_boxes: FloatArray
    boxes: FloatArray
    scores: FloatArray
    gt_track_ids: IntArray | None = None
    gt_classes: IntArray | None = None
    classes: IntArray | None = None
    file_name: str | None = None
    frame_number: int | None = None
    time_s: float | None = None
    ignored: FloatArray | None = None
    ignored_crowds: NDArray[np.bool_] | None = None
    view: FrameView | None = None

    @property
    def number(self) -> int:
        """Number of the frame along the film."""
        return self.frame_index if self.frame_number is None else self.frame_number

    @property
    def track_ids(self) -> IntArray:
        """``(M,)`` int64, the lesion of each box. If unknown it is the box's place: boxes of one frame are never one lesion."""
        return np.arange(len(self.gt_boxes)) if self.gt_track_ids is None else self.gt_track_ids


@dataclass(frozen=True, eq=False)
class VideoResult:
    """A video: its frames, with ground truth and detections.

    Attributes:
        video_id: unique in its data set.
        frames: the frames in temporal order.
        fps: frames per second; None if unknown.
        patient: id of the patient; None if unknown: the video then counts as a separate patient.
        metadata: device, organ, hospital and the like.
        patient_guessed: whether ``patient`` may have been taken from the video's name unasked, as version 0.1 did.
        class_names: names of the classes in the order of their numbers; empty if they are not known.
        category_ids: ids of the classes in the annotation file; empty: 1, 2, ... in the order of their numbers.
    """

    video_id: str
    frames: list[FrameResult]
    fps: float | None = None
    patient: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    patient_guessed: bool = False
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int | str, ...] = ()

    @property
    def has_classes(self) -> bool:
        """Whether there are several classes, and those of all lesions and detections are known."""
        known = all(f.gt_classes is not None and f.classes is not None for f in self.frames)
        return len(self.class_names) > 1 and known

    def times(self) -> FrameTimes:
        """The time of each frame.

        Raises:
            UserError: the frames' numbers or time stamps do not rise, or only some frames have time stamps.
        """
        numbers = np.array([frame.number for frame in self.frames], np.int64)
        stamps = np.array([np.nan if frame.time_s is None else frame.time_s for frame in self.frames])
        fault = order_fault(numbers, stamps)
        if fault is not None:
            raise UserError(f"Video {self.video_id!r} frame {self.frames[fault[0]].frame_index}: {fault[1]}.")
        return frame_times(numbers, self.fps or None, None if np.isnan(stamps).any() else stamps)


def frame_text(frame: FrameResult) -> str:
    """What a person finds a frame by: its place; also its number if that is another, and its time stamp if it has one."""
    more = [f"number {frame.number}"] if frame.number != frame.frame_index else []
    more += [f"{frame.time_s:.2f} s"] if frame.time_s is not None else []
    return f"{frame.frame_index} ({', '.join(more)})" if more else str(frame.frame_index)


@dataclass(frozen=True, eq=False)
class MatchedClasses:
    """Classes of a video's detections and lesion boxes, and the best lesion box of each detection within its class.

    Attributes:
        found: ``(N,)`` int64, class of each detection.
        true: ``(M,)`` int64, class of each lesion box.
        own_iou: ``(N,)`` float32, as ``MatchedVideo.best_iou``, among the lesion boxes of the detection's class.
        own_gt: ``(N,)`` int64, as ``MatchedVideo.best_gt``, among these.
    """

    found: IntArray
    true: IntArray
    own_iou: FloatArray
    own_gt: IntArray


@dataclass(frozen=True, eq=False)
class MatchedVideo:
    """A video after its boxes were compared (`matching.match_video`): all that the metrics need, about 50 bytes per detection.

    Detections are ordered by frame, within a frame as they were given.

    Attributes:
        video_id: id of the video.
        fps: frames per second; None if unknown.
        patient: id of the patient; the video's id if unknown.
        metadata: device, organ, hospital and the like.
        frame_index: ``(F,)`` int64, place of each frame in the video.
        scores: ``(N,)`` float32.
        frame: ``(N,)`` int64, index of the detection's frame, among the ``F``.
        area: ``(N,)`` float32, area of the detection's box, square pixels.
        best_iou: ``(N,)`` float32, highest IoU with a lesion box of the same frame; 0 if the frame has no lesion.
        best_gt: ``(N,)`` int64, index of the lesion box of that IoU (of equal ones the first), among the ``M``; -1 if the frame
            has no lesion.
        rank: ``(N,)`` int64, number of detections of the same frame that come before it by falling score.
        centre_hits: ``(N,)`` bool, whether the detection's centre lies in a lesion box of the same frame, border included.
        links: ``(L, 2)`` int64, (detection, earlier detection) pairs that a sequence may join (`matching.sequence_links`).
        gt_frame: ``(M,)`` int64, index of the lesion box's frame.
        gt_area: ``(M,)`` float32, area of the lesion box, square pixels.
        gt_track: ``(M,)`` int64, id of the lesion along its video.
        times: the time of each frame.
        links_by_place: as ``links``, if the frames were one after the other without gaps, as UltraDet's code takes them (`legacy`).
        patient_known: whether ``patient`` is known; else it is the video's id, and the video counts as a separate patient.
        patient_guessed: as in `VideoResult`.
        class_names: names of the classes in the order of their numbers; empty if they are not known.
        classes: None if there are no two classes, or they are not known.
        num_ignored: number of detections on regions to ignore; they are left out, and nothing else here counts them.
    """

    video_id: str
    fps: float | None
    patient: str
    metadata: Mapping[str, str]
    frame_index: IntArray
    scores: FloatArray
    frame: IntArray
    area: FloatArray
    best_iou: FloatArray
    best_gt: IntArray
    rank: IntArray
    centre_hits: NDArray[np.bool_]
    links: IntArray
    gt_frame: IntArray
    gt_area: FloatArray
    gt_track: IntArray
    times: FrameTimes
    links_by_place: IntArray
    patient_known: bool = True
    patient_guessed: bool = False
    class_names: tuple[str, ...] = ()
    classes: MatchedClasses | None = None
    num_ignored: int = 0

    @property
    def is_still(self) -> bool:
        """Whether it is one image, which has no duration."""
        return len(self.frame_index) == 1

    @property
    def minutes(self) -> float:
        """Length of the film in minutes, at 30 frames per second if neither rate nor time stamps are known."""
        return self.times.duration_s / 60
