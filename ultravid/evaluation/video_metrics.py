"""What a model said of videos, and figures that need the order of frames.

Legend: ``N`` detections and ``M`` lesions of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameResult", "VideoResult", "false_positive_sequences", "pairwise_iou_np"]

FloatArray = NDArray[np.float32]

LINK_FRAMES = 5
LINK_IOU = 0.5
GOOD_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Ground truth and detections of a frame.

    Attributes:
        frame_index: its place in its video.
        image_id: its id in the annotation file.
        gt_boxes: ``(M, 4)`` float32, XYXY, pixels.
        boxes: ``(N, 4)`` float32, XYXY, pixels.
        scores: ``(N,)`` float32.
    """

    frame_index: int
    image_id: int
    gt_boxes: FloatArray
    boxes: FloatArray
    scores: FloatArray


@dataclass(frozen=True, eq=False)
class VideoResult:
    """The frames of a video in order; ``fps`` is None where it is not known."""

    video_id: str
    frames: list[FrameResult]
    fps: float | None = None


def pairwise_iou_np(a: FloatArray, b: FloatArray) -> FloatArray:
    """``(len(a), len(b))`` intersection over union in float32; 0 where boxes only touch."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = size.clip(min=0).prod(axis=2)
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = area_a[:, None] + area_b[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def false_positive_sequences(video: VideoResult, threshold: float, strict: bool = False) -> int:
    """Number of false-positive sequences of a video (Yu et al., "UltraDet", MICCAI 2023, section 4.1).

    Detections that score at least ``threshold`` are linked: each to the one of highest IoU, if that is above 0.5, among
    those of the 5 frames before (of equal ones to the first: oldest frame first, then order in the frame). What hangs
    together is a sequence. A detection hits where its centre lies in a lesion's box of its own frame, border included. A
    sequence is false if at most 0.9 of its detections hit.

    Args:
        video: frames in order.
        threshold: least score.
        strict: keep scores above the threshold alone, as the published code of UltraDet does.
    """
    boxes, frames, hits = _kept(video, np.float32(threshold), strict)
    if len(boxes) == 0:
        return 0
    root = np.arange(len(boxes))
    starts = np.searchsorted(frames, np.arange(len(video.frames) + 1))
    for f in range(1, len(video.frames)):
        first, last = starts[f], starts[f + 1]
        before = starts[max(0, f - LINK_FRAMES)]
        if first == last or before == first:
            continue
        iou = pairwise_iou_np(boxes[first:last], boxes[before:first])
        best = iou.argmax(axis=1)
        linked = iou[np.arange(last - first), best] > LINK_IOU
        root[first:last][linked] = root[before + best[linked]]
    _, sequence = np.unique(root, return_inverse=True)
    size = np.bincount(sequence)
    good = np.bincount(sequence, weights=hits) / size > GOOD_SHARE
    return int((~good).sum())


def _kept(
    video: VideoResult, threshold: np.float32, strict: bool
) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
    """Boxes, frame numbers and hits of the detections that pass the threshold, in the order of frames."""
    boxes, frames, hits = [], [], []
    for f, frame in enumerate(video.frames):
        keep = frame.scores > threshold if strict else frame.scores >= threshold
        kept = frame.boxes[keep]
        if len(kept) == 0:
            continue
        centre = (kept[:, None, :2] + kept[:, None, 2:]) / 2
        inside = (frame.gt_boxes[None, :, :2] <= centre) & (centre <= frame.gt_boxes[None, :, 2:])
        boxes.append(kept)
        frames.append(np.full(len(kept), f, np.int64))
        hits.append(np.any(np.all(inside, axis=2), axis=1))
    if not boxes:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return np.concatenate(boxes), np.concatenate(frames), np.concatenate(hits)
