"""The second stage of two-stage detectors: pooling, sampling and prediction."""

from ultravid.modeling.roi.box_predictor import BoxPredictions, BoxPredictor
from ultravid.modeling.roi.pooler import FCBoxHead, RoIPooler
from ultravid.modeling.roi.roi_heads import RoIHeads
from ultravid.modeling.roi.sampler import RoISampler, SampledBoxes

__all__ = ["BoxPredictions", "BoxPredictor", "FCBoxHead", "RoIHeads", "RoIPooler", "RoISampler", "SampledBoxes"]
