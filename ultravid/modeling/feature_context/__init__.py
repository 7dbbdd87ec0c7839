"""Parts that give a frame's feature map what earlier frames showed."""

from ultravid.modeling.feature_context.base import FeatureContext, NoFeatureContext
from ultravid.modeling.feature_context.flow_aggregation import FlowAggregation

__all__ = ["FeatureContext", "FlowAggregation", "NoFeatureContext"]
