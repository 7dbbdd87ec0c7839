"""UltraDet: BasicDet whose boxes look first at what the last two key frames show in their place. The published behaviour; causal is a value."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import FlowContextMixer, FlowNet, FlowWarp

from .faster_rcnn import model

model.token_mixer = L(FlowContextMixer)(
    relation=L(RelationModule)(dim=256, num_heads=8, num_layers=2, geometry_dim=256),
    warp=L(FlowWarp)(
        estimator=L(FlowNet)(
            channels=(64, 128, 256, 512, 512, 1024),
            num_levels=6,
            reduction=4,
            output_reduction=4,
            scale_channels=256,
            flow_unit=None,  # the right one for the reduction
            image_divisor=1.0,
            freeze=False,
        ),
        map_stride=16,
        mixed_corners=False,
    ),
    num_heads=8,
    map_channels=256,
    num_contexts=2,
    key_interval=8,
    context_frames=15,
    context_stride=1,
    causal=False,
)
