"""Optical flow between frames, and the warping of feature maps by it."""

from ultravid.modeling.flow.base import Flow, FlowEstimator, ZeroFlow
from ultravid.modeling.flow.flownet import FlowNet
from ultravid.modeling.flow.warp import FlowWarp, warp_maps

__all__ = ["Flow", "FlowEstimator", "FlowNet", "FlowWarp", "ZeroFlow", "warp_maps"]
