"""FGFA: Faster R-CNN on the mean of 16 frames' maps, warped to the current frame by optical flow and weighted by similarity."""

from ultravid.config import LazyCall as L
from ultravid.modeling import FlowAggregation, FlowNet, FlowWarp

from .faster_rcnn import model

model.feature_context = L(FlowAggregation)(
    warp=L(FlowWarp)(
        estimator=L(FlowNet)(
            channels=(64, 128, 256, 512, 512, 1024),
            num_levels=6,
            reduction=4,
            output_reduction=4,
            scale_channels=0,
            flow_unit=None,  # the right one for the reduction
            image_divisor=1.0,
            freeze=False,
        ),
        map_stride=16,
        mixed_corners=False,
    ),
    channels=256,
    embedding_channels=(256, 256),
    context_frames=15,
    context_stride=1,
    num_drawn=2,
    causal=True,
)
