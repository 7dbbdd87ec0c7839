"""A Kalman filter of boxes that move with constant velocity (Kalman, "A new approach to linear filtering", 1960).

Legend: ``M`` boxes; a state is (x1, y1, x2, y2) in pixels and their velocities in pixels a frame; all arrays are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxFilter", "FilterState"]

Array = NDArray[np.float64]

_TRANSITION = np.eye(8) + np.eye(8, k=4)  # a coordinate moves by its velocity; one frame is one unit of time


class FilterState(NamedTuple):
    """What is known of ``M`` boxes.

    Attributes:
        mean: ``(M, 8)``.
        covariance: ``(M, 8, 8)``.
        noise: ``(M, 8)``, variance that a frame adds, the diagonal of the process noise.
    """

    mean: Array
    covariance: Array
    noise: Array


class BoxFilter:
    """Predicts boxes and corrects the prediction by what was detected.

    Args:
        initial_variance: variance of all eight numbers of a new box.
        detection_variance: variance of a detected coordinate, px^2.
        position_noise: standard deviation that a frame adds to a coordinate, as a share of the new box's coordinate (so it
            grows from the image's upper left corner to the lower right one).
        velocity_noise: likewise, of a velocity.
    """

    def __init__(
        self,
        initial_variance: float = 10.0,
        detection_variance: float = 1.0,
        position_noise: float = 1 / 20,
        velocity_noise: float = 1 / 160,
    ) -> None:
        self.initial_variance = initial_variance
        self.detection_variance = detection_variance
        self.position_noise = position_noise
        self.velocity_noise = velocity_noise

    def start(self, boxes: Array) -> FilterState:
        """New boxes ``(M, 4)`` that do not move yet."""
        return FilterState(
            mean=np.concatenate((boxes, np.zeros_like(boxes)), axis=1),
            covariance=np.tile(self.initial_variance * np.eye(8), (len(boxes), 1, 1)),
            noise=np.concatenate((boxes * self.position_noise, boxes * self.velocity_noise), axis=1) ** 2,
        )

    def predict(self, state: FilterState) -> FilterState:
        """The boxes in the next frame."""
        mean = state.mean @ _TRANSITION.T
        covariance = _TRANSITION @ state.covariance @ _TRANSITION.T + state.noise[:, :, None] * np.eye(8)
        return FilterState(mean, covariance, state.noise)

    def correct(self, state: FilterState, boxes: Array) -> FilterState:
        """The boxes once ``(M, 4)`` of the frame are known."""
        innovation = state.covariance[:, :4, :4] + self.detection_variance * np.eye(4)
        # K = P H' S^-1, and S is symmetric.
        gain = np.linalg.solve(innovation, state.covariance[:, :4, :]).transpose(0, 2, 1)
        mean = state.mean + (gain @ (boxes - state.mean[:, :4])[:, :, None])[:, :, 0]
        covariance = state.covariance - gain @ state.covariance[:, :4, :]
        return FilterState(mean, covariance, state.noise)
