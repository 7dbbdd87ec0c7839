"""Compare the boxes of a video once: each detection with the lesions of its frame, and with earlier detections.

Every metric is computed from the `MatchedVideo` that comes out; no metric compares boxes itself.

Legend: ``F`` frames, ``N`` detections and ``M`` lesion boxes of a video; ``L`` links.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.results import FrameResult, MatchedClasses, MatchedVideo, VideoResult

__all__ = ["match_video", "match_videos", "pairwise_iou_np", "without_ignored"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LINK_FRAMES = 5
LINK_IOU = 0.5
IGNORED_IOU = 0.5

_PAIRS_AT_ONCE = 30_000  # pairs of boxes compared in one go: the dozen arrays at work stay in the cache


def match_videos(videos: Iterable[VideoResult | MatchedVideo]) -> list[MatchedVideo]:
    """`match_video` of each video that is not matched yet, in order."""
    return [match_video(v) if isinstance(v, VideoResult) else v for v in videos]


def match_video(video: VideoResult) -> MatchedVideo:
    """Compare a video's detections with its lesions and with each other; the time is linear in the video's length.

    Detections on regions to ignore are left out (`without_ignored`).

    Args:
        video: the frames of one video with detections and lesions.
    """
    num_found = sum(len(f.scores) for f in video.frames)
    video = without_ignored(video)
    frames = video.frames
    boxes = np.concatenate([f.boxes for f in frames] or [np.zeros((0, 4), np.float32)])
    scores = np.concatenate([f.scores for f in frames] or [np.zeros(0, np.float32)])
    gt_boxes = np.concatenate([f.gt_boxes for f in frames] or [np.zeros((0, 4), np.float32)])
    frame = np.repeat(np.arange(len(frames)), [len(f.scores) for f in frames])
    gt_frame = np.repeat(np.arange(len(frames)), [len(f.gt_boxes) for f in frames])
    tracks = [f.track_ids for f in frames]
    best_iou, best_gt, centre_hits = _compare_with_lesions(boxes, frame, gt_boxes, gt_frame)
    times = video.times()
    links = sequence_links(boxes, scores, frame, times.ticks)
    by_place = links if times.is_even else sequence_links(boxes, scores, frame, np.arange(len(frames)))
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
        links=links,
        gt_frame=gt_frame,
        gt_area=box_area(gt_boxes),
        gt_track=np.concatenate([*tracks, np.zeros(0, np.int64)]),
        times=times,
        links_by_place=by_place,
        patient_known=video.patient is not None,
        patient_guessed=video.patient_guessed,
        class_names=video.class_names,
        classes=_match_within_classes(video, boxes, frame, gt_boxes, gt_frame) if video.has_classes else None,
        num_ignored=num_found - len(scores),
    )


def without_ignored(video: VideoResult) -> VideoResult:
    """The video without the detections that are neither right nor wrong.

    These overlap no lesion of their frame, but a region to ignore, with an IoU of 0.5. In a crowd region the share of the detection
    that lies inside counts in place of the IoU. This is COCO's rule at its first threshold.
    """
    if all(frame.ignored is None for frame in video.frames):
        return video
    return replace(video, frames=[_frame_without_ignored(frame) for frame in video.frames])


def _frame_without_ignored(frame: FrameResult) -> FrameResult:
    if frame.ignored is None or not len(frame.boxes):
        return frame
    crowds = np.zeros(len(frame.ignored), np.bool_) if frame.ignored_crowds is None else frame.ignored_crowds
    on_region = np.zeros(len(frame.boxes), np.bool_)
    for region, is_crowd in zip(frame.ignored, crowds, strict=True):
        on_region |= _is_inside(frame.boxes, region) if is_crowd else iou_np(frame.boxes, region) >= IGNORED_IOU
    kept = ~on_region
    for lesion in frame.gt_boxes:
        kept |= iou_np(frame.boxes, lesion) >= IGNORED_IOU
    classes = None if frame.classes is None else frame.classes[kept]
    return replace(frame, boxes=frame.boxes[kept], scores=frame.scores[kept], classes=classes)


def _is_inside(boxes: FloatArray, region: FloatArray) -> NDArray[np.bool_]:
    """``(N,)`` whether at least half of a box, by area, lies inside a region."""
    sides = np.minimum(boxes[:, 2:], region[2:]) - np.maximum(boxes[:, :2], region[:2])
    return sides.clip(min=0).prod(axis=1) >= IGNORED_IOU * np.maximum(box_area(boxes), np.float32(1e-9))


def _match_within_classes(
    video: VideoResult, boxes: FloatArray, frame: IntArray, gt_boxes: FloatArray, gt_frame: IntArray
) -> MatchedClasses:
    """The classes of a video that has several, and the best lesion box of each detection among those of its class."""
    none = np.zeros(0, np.int64)
    found = np.concatenate([none, *(f.classes for f in video.frames if f.classes is not None)])
    true = np.concatenate([none, *(f.gt_classes for f in video.frames if f.gt_classes is not None)])
    own_iou, own_gt = np.zeros(len(boxes), np.float32), np.full(len(boxes), -1, np.int64)
    for number in np.unique(found):
        kept, lesions = np.flatnonzero(found == number), np.flatnonzero(true == number)
        iou, best, _ = _compare_with_lesions(boxes[kept], frame[kept], gt_boxes[lesions], gt_frame[lesions])
        own_iou[kept] = iou
        own_gt[kept] = np.where(best >= 0, np.append(lesions, -1)[best], -1)
    return MatchedClasses(found, true, own_iou, own_gt)


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
    for nth in range(int((last - first).max(initial=0))):  # the first lesion of each frame, the second, ...
        with_it = np.flatnonzero(first + nth < last)
        lesion = first[with_it] + nth
        own, other = boxes[with_it], gt_boxes[lesion]
        iou = iou_np(own, other)
        better = (iou > best_iou[with_it]) | (best_gt[with_it] < 0)
        best_iou[with_it[better]], best_gt[with_it[better]] = iou[better], lesion[better]
        centre = (own[:, :2] + own[:, 2:]) / 2
        hits[with_it] |= np.all((other[:, :2] <= centre) & (centre <= other[:, 2:]), axis=1)
    return best_iou, best_gt, hits


def sequence_links(
    boxes: FloatArray, scores: FloatArray, frame: IntArray, ticks: NDArray[np.float64] | IntArray
) -> IntArray:
    """The earlier detections that a detection can be linked to at some score threshold.

    At a threshold, a detection is linked to one detection among those that reach the threshold in the 5 frames before: the one
    of highest IoU, if that is above 0.5; of equal ones the first, oldest frame first, then in the frame's order (Yu et al.,
    "UltraDet", MICCAI 2023). The 5 frames before are those whose tick is at most 5 less (`ultravid.datasets.frame_times`), so that
    nothing is linked over a pause of the film. A candidate matters only if it scores higher than all candidates of higher IoU; and no
    candidate matters after the first one that scores at least as high as the detection itself, because that one is kept
    whenever the detection is. A few candidates per detection remain.

    Args:
        boxes: ``(N, 4)``, ordered by frame.
        scores: ``(N,)``.
        frame: ``(N,)`` indices of their frames, ascending.
        ticks: ``(F,)`` places of the video's frames along the film, rising.

    Returns:
        ``(L, 2)`` (detection, candidate), ordered by detection, candidates of higher IoU first.
    """
    starts = np.searchsorted(frame, np.arange(len(ticks) + 1)).tolist()
    oldest = np.searchsorted(ticks, ticks - (LINK_FRAMES + 0.5), side="right").tolist()  # to the nearest tick
    found = [np.zeros((0, 2), np.int64)]
    for child, parent in _near_pairs(boxes, starts, oldest):
        iou = iou_np(boxes[child], boxes[parent])
        above = np.flatnonzero(iou > LINK_IOU)
        order = above[np.lexsort((parent[above], -iou[above], child[above]))]
        child, parent = child[order], parent[order]
        needed = _needed_candidates(child, scores[child], scores[parent])
        found.append(np.stack([child[needed], parent[needed]], axis=1))
    return np.concatenate(found)


def _near_pairs(boxes: FloatArray, starts: Sequence[int], oldest: Sequence[int]) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs (detection, detection of the 5 frames before) that overlap horizontally, a bounded number of pairs at once.

    Most pairs do not overlap; testing that first, frame by frame, takes half the time of computing every IoU.

    Args:
        boxes: ``(N, 4)``, ordered by frame.
        starts: the first detection of each frame, and their number at the end.
        oldest: for each frame the first of the 5 frames before, or the frame itself.
    """
    left, right = np.ascontiguousarray(boxes[:, 0]), np.ascontiguousarray(boxes[:, 2])
    children, parents, held = [], [], 0
    for f in range(1, len(starts) - 1):
        before, begin, end = starts[oldest[f]], starts[f], starts[f + 1]
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
    """Which candidates can be chosen at some threshold, of candidates ordered by child, higher IoU first.

    Those that score higher than all candidates before them, as long as none before scores at least as high as the child.
    """
    if len(child) == 0:
        return np.zeros(0, np.bool_)
    levels = np.unique(np.concatenate([score, child_score]))
    own, here = np.searchsorted(levels, child_score), np.searchsorted(levels, score)
    # With the child's number as the leading digit, the running maximum never mixes two children.
    base = child * (len(levels) + 1)
    running = np.maximum.accumulate(base + 1 + here)
    # -1: this child has no candidate before.
    highest_before = np.maximum(np.concatenate([[0], running[:-1]]) - base, 0) - 1
    return (here > highest_before) & (highest_before < own)


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
