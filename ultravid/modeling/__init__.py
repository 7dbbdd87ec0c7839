"""Parts of detectors, the families that compose them, and the detectors by name."""

from ultravid.modeling.assign import (
    CenterSampling,
    HungarianAssigner,
    Matcher,
    OneToOne,
    SimOTA,
    TopQuality,
    subsample_labels,
)
from ultravid.modeling.backbone import ResNet, TimmBackbone, make_stage
from ultravid.modeling.dense import (
    FCOS,
    RPN,
    YOLOX,
    AnchorGenerator,
    DeFCN,
    DenseHead,
    RetinaNet,
    RPNHead,
    anchor_shapes,
)
from ultravid.modeling.detector import Tracker, VideoDetector, VideoStream
from ultravid.modeling.families import OneStage, Query, TwoStage
from ultravid.modeling.feature_context import (
    FeatureContext,
    FlowAggregation,
    FrameFusion,
    NoFeatureContext,
    ProgressiveAggregation,
)
from ultravid.modeling.flow import FlowEstimator, FlowNet, FlowWarp, ZeroFlow
from ultravid.modeling.frame_window import FrameWindow
from ultravid.modeling.inference import InferenceDetector, prepare_for_inference
from ultravid.modeling.named import BasicDet, FasterRCNN
from ultravid.modeling.organs import OrganConv2d, OrganLinear, classify, organ_classifier
from ultravid.modeling.postprocessing import detector_postprocess
from ultravid.modeling.query import (
    DeformableEncoder,
    NoQueryContext,
    QueryContext,
    QueryCriterion,
    QueryDecoder,
    TemporalQueries,
)
from ultravid.modeling.roi import BoxPredictor, FCBoxHead, RoIHeads, RoIPooler, RoISampler
from ultravid.modeling.token_mixer import FlowContextMixer, MEGAMixer, NoMixer, RelationMixer, TokenMixer
from ultravid.modeling.track import KalmanTracker
from ultravid.modeling.types import Detections, FrameTokens, State, Targets

__all__ = [
    "FCOS",
    "RPN",
    "YOLOX",
    "AnchorGenerator",
    "BasicDet",
    "BoxPredictor",
    "CenterSampling",
    "DeFCN",
    "DeformableEncoder",
    "DenseHead",
    "Detections",
    "FCBoxHead",
    "FasterRCNN",
    "FeatureContext",
    "FlowAggregation",
    "FlowContextMixer",
    "FlowEstimator",
    "FlowNet",
    "FlowWarp",
    "FrameFusion",
    "FrameTokens",
    "FrameWindow",
    "HungarianAssigner",
    "InferenceDetector",
    "KalmanTracker",
    "MEGAMixer",
    "Matcher",
    "NoFeatureContext",
    "NoMixer",
    "NoQueryContext",
    "OneStage",
    "OneToOne",
    "OrganConv2d",
    "OrganLinear",
    "ProgressiveAggregation",
    "Query",
    "QueryContext",
    "QueryCriterion",
    "QueryDecoder",
    "RPNHead",
    "RelationMixer",
    "ResNet",
    "RetinaNet",
    "RoIHeads",
    "RoIPooler",
    "RoISampler",
    "SimOTA",
    "State",
    "Targets",
    "TemporalQueries",
    "TimmBackbone",
    "TokenMixer",
    "TopQuality",
    "Tracker",
    "TwoStage",
    "VideoDetector",
    "VideoStream",
    "ZeroFlow",
    "anchor_shapes",
    "classify",
    "detector_postprocess",
    "make_stage",
    "organ_classifier",
    "prepare_for_inference",
    "subsample_labels",
]
