"""TrackYOLO: YOLOX whose detections are linked to tracks; those that belong to none are dropped."""

from ultravid.config import LazyCall as L
from ultravid.modeling import KalmanTracker

from .yolox import model

model.tracker = L(KalmanTracker)(
    min_score=0.05,
    nms_threshold=0.5,
    match_threshold=0.5,
    new_track_score=0.2,
    buffer=20,
)
