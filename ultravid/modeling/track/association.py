"""Assigns detections to tracks.

Legend: ``D`` detections, ``M`` tracks; boxes are XYXY, float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_pairs", "complete_iou"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def complete_iou(detections: Array, tracks: Array) -> Array:
    """``(D, M)``: IoU, less the share of distance of the centers, less a penalty for another aspect ratio; at most 1.

    Source: Zheng et al., "Distance-IoU loss", AAAI 2020, equation 10.
    """
    a, b = detections[:, None], tracks[None]
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    union = size_a.prod(axis=-1) + size_b.prod(axis=-1) - overlap
    iou = overlap / np.maximum(union, 1e-9)
    distance = (((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) ** 2).sum(axis=-1) / 4
    enclosing = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    angle = np.arctan(size_b[..., 0] / (size_b[..., 1] + 1e-5)) - np.arctan(size_a[..., 0] / (size_a[..., 1] + 1e-5))
    aspect = 4 / np.pi**2 * angle**2
    penalty = aspect / (1 - iou + aspect + 1e-5) * aspect
    result: Array = iou - distance / np.maximum((enclosing**2).sum(axis=-1), 1e-9) - penalty
    return result


def best_pairs(values: Array, threshold: float) -> tuple[Index, Index]:
    """Rows and columns of ``(D, M)`` that are paired: the sum of the values is largest, and those at or below the threshold are dropped."""
    from scipy.optimize import linear_sum_assignment  # here, as it takes half a second to import and few models need it

    row, column = linear_sum_assignment(values, maximize=True)
    kept = values[row, column] > threshold
    return row[kept], column[kept]
