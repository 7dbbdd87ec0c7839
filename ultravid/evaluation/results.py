"""What a model said of videos, and what is left of it once boxes have been compared.

Legend: ``F`` frames, ``N`` detections and ``M`` lesion boxes, of a frame or of a whole video as stated; ``L`` links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_FPS", "FrameResult", "MatchedVideo", "VideoResult", "match_video", "pairwise_iou_np"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

DEFAULT_FPS = 30.0
LINK_FRAMES = 5
LINK_IOU = 0.5

_PAIRS_AT_ONCE = 30_000  # pairs of boxes compared in one go: the dozen arrays at work stay in the cache


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Ground truth and detections of a frame.

    Attributes:
        frame_index: its place in its video.
        image_id: its id in the annotation file.
        gt_boxes: ``(M, 4)`` float32, XYXY, pixels.
        boxes: ``(N, 4)`` float32, XYXY, pixels.
        scores: ``(N,)`` float32.
        gt_track_ids: ``(M,)`` int64, one id a lesion along its video; None where they are not known, then all boxes of the
            video are taken for one lesion.
        gt_classes: ``(M,)`` int64; None where they are not known. No figure looks at them.
        classes: ``(N,)`` int64; None where they are not known. No figure looks at them.
        file_name: the frame's picture; None where it is not known. No figure looks at it.
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


@dataclass(frozen=True, eq=False)
class VideoResult:
    """The frames of a video in order.

    Attributes:
        video_id: unique in its data set.
        frames: in temporal order.
        fps: frames a second; None where it is not known.
        patient: who was scanned; None where it is not known, then the video counts as a patient of its own.
        metadata: device, organ, hospital and the like.
    """

    video_id: str
    frames: list[FrameResult]
    fps: float | None = None
    patient: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MatchedVideo:
    """A video once its boxes have been compared: all that the figures need, some 50 bytes a detection.

    Detections stand in the order of frames, within a frame in the order given.

    Attributes:
        video_id: see `VideoResult`.
        fps: see `VideoResult`.
        patient: see `VideoResult`; the video's id where it is not known.
        metadata: see `VideoResult`.
        frame_index: ``(F,)`` int64, see `FrameResult`.
        scores: ``(N,)`` float32.
        frame: ``(N,)`` int64, place of the detection's frame among the ``F``.
        area: ``(N,)`` float32, square pixels.
        best_iou: ``(N,)`` float32, highest IoU with a lesion of the frame, 0 without one.
        best_gt: ``(N,)`` int64, the first lesion box of that IoU, as an index into the ``M``; -1 without a lesion.
        rank: ``(N,)`` int64, how many detections of the same frame come before by falling score.
        centre_hits: ``(N,)`` bool, the centre lies in a lesion's box of the frame, border included.
        links: ``(L, 2)`` int64, (detection, earlier detection) that a sequence may join, see `sequence_links`.
        gt_frame: ``(M,)`` int64, place of the box's frame.
        gt_area: ``(M,)`` float32, square pixels.
        gt_track: ``(M,)`` int64, see `FrameResult`.
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

    @property
    def minutes(self) -> float:
        """Length; 30 frames a second where the video's own rate is not known."""
        return len(self.frame_index) / (self.fps or DEFAULT_FPS) / 60


def box_area(boxes: FloatArray) -> FloatArray:
    """``(...)`` width times height of ``(..., 4)`` XYXY boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_np(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union of boxes ``(..., 4)`` that broadcast, in float32; 0 where boxes only touch."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    inter = width.clip(min=0) * height.clip(min=0)
    union = box_area(a) + box_area(b) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def pairwise_iou_np(a: FloatArray, b: FloatArray) -> FloatArray:
    """``(len(a), len(b))`` intersection over union in float32; 0 where boxes only touch."""
    return iou_np(a[:, None], b[None])


def match_video(video: VideoResult) -> MatchedVideo:
    """Compare a video's detections with its lesions and with each other; linear in its length."""
    frames = video.frames
    boxes = np.concatenate([f.boxes for f in frames] or [np.zeros((0, 4), np.float32)])
    scores = np.concatenate([f.scores for f in frames] or [np.zeros(0, np.float32)])
    gt_boxes = np.concatenate([f.gt_boxes for f in frames] or [np.zeros((0, 4), np.float32)])
    frame = np.repeat(np.arange(len(frames)), [len(f.scores) for f in frames])
    gt_frame = np.repeat(np.arange(len(frames)), [len(f.gt_boxes) for f in frames])
    tracks = [np.zeros(len(f.gt_boxes), np.int64) if f.gt_track_ids is None else f.gt_track_ids for f in frames]
    best_iou, best_gt, centre_hits = _compare_with_lesions(boxes, frame, gt_boxes, gt_frame)
    return MatchedVideo(
        video_id=video.video_id,
        fps=video.fps,
        patient=video.video_id if video.patient is None else video.patient,
        metadata=dict(video.metadata),
        frame_index=np.array([f.frame_index for f in frames], np.int64),
        scores=scores,
        frame=frame,
        area=box_area(boxes),
        best_iou=best_iou,
        best_gt=best_gt,
        rank=_rank_in_frame(scores, frame, len(frames)),
        centre_hits=centre_hits,
        links=sequence_links(boxes, scores, frame, len(frames)),
        gt_frame=gt_frame,
        gt_area=box_area(gt_boxes),
        gt_track=np.concatenate([*tracks, np.zeros(0, np.int64)]),
    )


def _rank_in_frame(scores: FloatArray, frame: IntArray, num_frames: int) -> IntArray:
    order = np.lexsort((-scores, frame))  # stable: equal scores stay in the order given
    starts = np.searchsorted(frame, np.arange(num_frames))
    rank = np.empty(len(scores), np.int64)
    rank[order] = np.arange(len(scores)) - starts[frame[order]]
    return rank


def _compare_with_lesions(
    boxes: FloatArray, frame: IntArray, gt_boxes: FloatArray, gt_frame: IntArray
) -> tuple[FloatArray, IntArray, NDArray[np.bool_]]:
    """``best_iou``, ``best_gt`` and ``centre_hits`` of a `MatchedVideo`."""
    best_iou = np.zeros(len(boxes), np.float32)
    best_gt = np.full(len(boxes), -1, np.int64)
    hits = np.zeros(len(boxes), np.bool_)
    first, last = np.searchsorted(gt_frame, frame), np.searchsorted(gt_frame, frame, side="right")
    for nth in range(int((last - first).max(initial=0))):  # the frame's first lesion, its second, ...
        with_it = np.flatnonzero(first + nth < last)
        lesion = first[with_it] + nth
        own, other = boxes[with_it], gt_boxes[lesion]
        iou = iou_np(own, other)
        better = (iou > best_iou[with_it]) | (best_gt[with_it] < 0)
        best_iou[with_it[better]], best_gt[with_it[better]] = iou[better], lesion[better]
        centre = (own[:, :2] + own[:, 2:]) / 2
        hits[with_it] |= np.all((other[:, :2] <= centre) & (centre <= other[:, 2:]), axis=1)
    return best_iou, best_gt, hits


def sequence_links(boxes: FloatArray, scores: FloatArray, frame: IntArray, num_frames: int) -> IntArray:
    """Which earlier detection a detection may be linked to, whatever the score threshold.

    At a threshold, a detection is linked to the one of highest IoU, if that is above 0.5, among the kept ones of the 5
    frames before; of equal ones to the first, oldest frame first, then in the order of the frame (Yu et al., "UltraDet",
    MICCAI 2023). So a candidate counts only if it scores higher than all better candidates, and none after the first
    that is kept whenever the detection itself is. That leaves a few for each detection.

    Args:
        boxes: ``(N, 4)`` in the order of frames.
        scores: ``(N,)``.
        frame: ``(N,)`` places of their frames, ascending.
        num_frames: frames of the video.

    Returns:
        ``(L, 2)`` (detection, candidate), by detection, the better candidate first.
    """
    starts = np.searchsorted(frame, np.arange(num_frames + 1)).tolist()
    found = [np.zeros((0, 2), np.int64)]
    for child, parent in _near_pairs(boxes, starts):
        iou = iou_np(boxes[child], boxes[parent])
        above = np.flatnonzero(iou > LINK_IOU)
        order = above[np.lexsort((parent[above], -iou[above], child[above]))]
        child, parent = child[order], parent[order]
        needed = _needed_candidates(child, scores[child], scores[parent])
        found.append(np.stack([child[needed], parent[needed]], axis=1))
    return np.concatenate(found)


def _near_pairs(boxes: FloatArray, starts: Sequence[int]) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs (detection, one of the 5 frames before) that overlap from left to right, for whole frames, in bounded parts.

    Most pairs lie apart so, and asking that first, frame by frame, takes half the time of computing every IoU.
    """
    left, right = np.ascontiguousarray(boxes[:, 0]), np.ascontiguousarray(boxes[:, 2])
    children, parents, held = [], [], 0
    for f in range(1, len(starts) - 1):
        before, begin, end = starts[max(0, f - LINK_FRAMES)], starts[f], starts[f + 1]
        if before == begin or begin == end:
            continue
        overlap = np.minimum(right[begin:end, None], right[before:begin])
        overlap -= np.maximum(left[begin:end, None], left[before:begin])
        child, parent = np.divmod(np.flatnonzero(overlap > 0), begin - before)
        children.append(child + begin)
        parents.append(parent + before)
        held += len(child)
        if held >= _PAIRS_AT_ONCE:
            yield np.concatenate(children), np.concatenate(parents)
            children, parents, held = [], [], 0
    if children:
        yield np.concatenate(children), np.concatenate(parents)


def _needed_candidates(child: IntArray, child_score: FloatArray, score: FloatArray) -> NDArray[np.bool_]:
    """Of candidates by child, the better first: those of which none before scores as high, or as high as the child."""
    if len(child) == 0:
        return np.zeros(0, np.bool_)
    levels = np.unique(np.concatenate([score, child_score]))
    own, here = np.searchsorted(levels, child_score), np.searchsorted(levels, score)
    # A child's number in front of its candidates' levels keeps the running maximum inside the child.
    base = child * (len(levels) + 1)
    running = np.maximum.accumulate(base + 1 + here)
    highest_before = (
        np.maximum(np.concatenate([[0], running[:-1]]) - base, 0) - 1
    )  # -1: no candidate of this child before
    return (here > highest_before) & (highest_before < own)
