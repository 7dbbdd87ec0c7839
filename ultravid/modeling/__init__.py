"""Backbones, proposals, heads, temporal context, and the detectors that are made of them."""

from ultravid.modeling.backbone import ResNet, make_stage
from ultravid.modeling.context import FrameMemory, FrameTokens
from ultravid.modeling.detector import BasicDet, FasterRCNN
from ultravid.modeling.heads import BoxPredictor, FCBoxHead, RoIHeads
from ultravid.modeling.matcher import Matcher, subsample_labels
from ultravid.modeling.postprocessing import detector_postprocess
from ultravid.modeling.proposal import RPN, AnchorGenerator, RPNHead, anchor_shapes

__all__ = [
    "RPN",
    "AnchorGenerator",
    "BasicDet",
    "BoxPredictor",
    "FCBoxHead",
    "FasterRCNN",
    "FrameMemory",
    "FrameTokens",
    "Matcher",
    "RPNHead",
    "ResNet",
    "RoIHeads",
    "anchor_shapes",
    "detector_postprocess",
    "make_stage",
    "subsample_labels",
]
