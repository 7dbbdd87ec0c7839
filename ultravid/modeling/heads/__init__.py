"""Modules that turn proposals into detections."""

from ultravid.modeling.heads.box_predictor import BoxPredictor
from ultravid.modeling.heads.roi_heads import FCBoxHead, RoIHeads

__all__ = ["BoxPredictor", "FCBoxHead", "RoIHeads"]
