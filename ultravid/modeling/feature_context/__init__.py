"""Parts that add information from earlier frames to a frame's feature map."""

from ultravid.modeling.feature_context.base import FeatureContext, NoFeatureContext
from ultravid.modeling.feature_context.flow_aggregation import FlowAggregation
from ultravid.modeling.feature_context.frame_fusion import FrameFusion
from ultravid.modeling.feature_context.progressive import ProgressiveAggregation

__all__ = ["FeatureContext", "FlowAggregation", "FrameFusion", "NoFeatureContext", "ProgressiveAggregation"]
