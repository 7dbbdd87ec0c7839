"""Parts that give a frame's feature map what earlier frames showed."""

from ultravid.modeling.feature_context.base import FeatureContext, NoFeatureContext
from ultravid.modeling.feature_context.flow_aggregation import FlowAggregation
from ultravid.modeling.feature_context.frame_fusion import FrameFusion
from ultravid.modeling.feature_context.progressive import ProgressiveAggregation

__all__ = ["FeatureContext", "FlowAggregation", "FrameFusion", "NoFeatureContext", "ProgressiveAggregation"]
