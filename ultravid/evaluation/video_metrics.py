"""Metrics that depend on the order of frames: false-positive sequences (Yu et al., "UltraDet", MICCAI 2023, section 4.1).

Detections that score at least a threshold are linked: each to one detection of the 5 frames before (those whose tick along the
film is at most 5 less, `ultravid.datasets.frame_times`), the one of highest IoU if that is above 0.5 (of equal ones the first: oldest frame first, then order in the frame). Detections that are connected by
links are a sequence; a detection without links is one too. A detection hits if its centre lies in a lesion box of its frame,
border included. A sequence is a false positive if at most 9 in 10 of its detections hit.

Legend: ``K`` thresholds, ``N`` detections of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.matching import match_video
from ultravid.evaluation.results import MatchedVideo, VideoResult

__all__ = ["false_positive_sequences", "false_sequences_at", "false_sequences_per_minute"]

GOOD_SHARE = 0.9

_CELLS_AT_ONCE = 1_000_000


def false_positive_sequences(video: VideoResult | MatchedVideo, threshold: float, strict: bool = False) -> int:
    """Number of false-positive sequences of a video, as the module defines them.

    Args:
        video: frames in order.
        threshold: lowest score of a detection that is kept.
        strict: a score must be above the threshold to be kept, as in the published code of UltraDet.
    """
    matched = match_video(video) if isinstance(video, VideoResult) else video
    return int(false_sequences_at(matched, np.array([threshold], np.float32), strict)[0])


def false_sequences_per_minute(videos: Sequence[MatchedVideo], threshold: float) -> float:
    """False-positive sequences of all films by their minutes; nan if the threshold is nan or all videos are stills."""
    films = [video for video in videos if not video.is_still]
    minutes = sum(v.minutes for v in films)
    if np.isnan(threshold) or minutes == 0:
        return float("nan")
    return sum(false_positive_sequences(v, threshold) for v in films) / minutes


def false_sequences_at(
    video: MatchedVideo, thresholds: NDArray[np.float32], strict: bool = False, by_place: bool = False
) -> NDArray[np.int64]:
    """``(K,)`` number of false-positive sequences of a video at ``(K,)`` thresholds in any order, as the module defines them.

    Args:
        video: the video.
        thresholds: ``(K,)`` lowest scores of detections that are kept.
        strict: a score must be above the threshold to be kept.
        by_place: the 5 frames before are the 5 places before, whatever their time, as in the published code of UltraDet.
    """
    by_score = np.sort(-video.scores)
    kept_at = by_score.searchsorted(-thresholds, side="left" if strict else "right")
    # All thresholds between two neighbouring scores keep the same detections, so each number of kept ones is computed once.
    num_kept, inverse = np.unique(kept_at, return_inverse=True)
    order = np.argsort(-video.scores, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    links = video.links_by_place if by_place else video.links
    child, parent = place[links[:, 0]], place[links[:, 1]]
    hits = video.centre_hits[order]
    counts = np.zeros(len(num_kept), np.int64)
    begin = 0
    while begin < len(num_kept):  # in blocks of about equal numbers of (threshold, detection)
        end = begin + 1
        while end < len(num_kept) and (end + 1 - begin) * num_kept[end] <= _CELLS_AT_ONCE:
            end += 1
        counts[begin:end] = _count_false(num_kept[begin:end], child, parent, hits)
        begin = end
    return counts[inverse]


def _count_false(
    num_kept: NDArray[np.int64], child: NDArray[np.int64], parent: NDArray[np.int64], hits: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """``(K,)`` number of false-positive sequences if the ``num_kept`` highest-scoring detections are kept.

    Args:
        num_kept: ``(K,)``, ascending.
        child: ``(L,)`` detections, numbered by falling score; the links of a child are adjacent, higher IoU first.
        parent: ``(L,)`` the earlier detections of these links, numbered alike.
        hits: ``(N,)`` which detections hit, by falling score.
    """
    K, most = len(num_kept), int(num_kept[-1])
    root = np.tile(np.arange(most), (K, 1))
    reachable = (child < most) & (parent < most)
    child, parent = child[reachable], parent[reachable]
    if len(child) > 0:
        starts = np.flatnonzero(np.diff(child, prepend=-1))
        # The first candidate that is kept: candidates that are not kept get a position past the end.
        position = np.where(parent[None] < num_kept[:, None], np.arange(len(parent)), len(parent))
        chosen = np.minimum.reduceat(position, starts, axis=1)
        own = child[starts]
        target = np.append(parent, 0)[chosen]
        root[:, own] = np.where(chosen < len(parent), target, own)
    root += (np.arange(K) * most)[:, None]
    flat = root.ravel()
    while True:  # pointer jumping: each round doubles the distance followed
        further = flat[flat]
        if np.array_equal(further, flat):
            break
        flat = further
    kept = (np.arange(most) < num_kept[:, None]).ravel()
    size = np.bincount(flat[kept], minlength=len(flat))
    good = np.bincount(flat[kept], weights=np.tile(hits[:most], K)[kept], minlength=len(flat))
    share = good / np.maximum(size, 1)  # in this form 9 of 10 equals 0.9 to the last bit
    false = (size > 0) & (share <= GOOD_SHARE)
    return false.reshape(K, most).sum(axis=1)
