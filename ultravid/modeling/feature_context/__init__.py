"""Parts that give a frame's feature map what earlier frames showed."""

from ultravid.modeling.feature_context.base import FeatureContext, NoFeatureContext

__all__ = ["FeatureContext", "NoFeatureContext"]
