"""A small FGFA for images of about 128 px: the mean of 8 frames' maps, every second one, warped by a flow network that fits them."""

from ultravid.config import LazyCall as L
from ultravid.modeling import FlowAggregation, FlowNet, FlowWarp

from .faster_rcnn_small import model

model.feature_context = L(FlowAggregation)(
    warp=L(FlowWarp)(
        estimator=L(FlowNet)(
            channels=(16, 24, 32, 48), num_levels=4, reduction=2, output_reduction=1, scale_channels=0, flow_unit=8.0
        ),
        map_stride=8,
    ),
    channels=64,
    embedding_channels=(64, 64),
    context_frames=7,
    context_stride=2,
    num_drawn=2,
    causal=True,
)
