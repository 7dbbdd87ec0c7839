"""A small UltraDet for images of about 128 px, causal: `basicdet_small.py` and contexts from the last two key frames."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import FlowContextMixer, FlowNet, FlowWarp

from .faster_rcnn_small import model

# The flow network ends at 1/32 of the image. One unit of flow is one cell, so that a new network moves maps slowly.
model.token_mixer = L(FlowContextMixer)(
    relation=L(RelationModule)(dim=128, num_heads=8, num_layers=2, geometry_dim=64),
    warp=L(FlowWarp)(
        estimator=L(FlowNet)(
            channels=(16, 24, 32, 48),
            num_levels=4,
            reduction=2,
            output_reduction=1,
            scale_channels=64,
            flow_unit=8.0,
        ),
        map_stride=8,
    ),
    num_heads=8,
    map_channels=64,
    num_contexts=2,
    key_interval=4,
    context_frames=15,
    context_stride=2,
    causal=True,
)
