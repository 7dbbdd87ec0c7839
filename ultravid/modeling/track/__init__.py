"""Trackers, which link the detections of a stream, on the host."""

from ultravid.modeling.track.kalman_tracker import KalmanTracker

__all__ = ["KalmanTracker"]
