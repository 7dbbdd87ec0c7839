"""A small YOLOX for images of about 128 px, one frame at a time: stride 8, trained from scratch on a CPU in minutes."""

from ultravid.config import LazyCall as L
from ultravid.modeling import YOLOX, OneStage, ResNet, SimOTA

model = L(OneStage)(
    backbone=L(ResNet)(num_blocks=(1, 1, 1), channels=(16, 32, 64), strides=(1, 2, 1), stem_channels=16, norm="BN"),
    feature_context=None,
    dense_head=L(YOLOX)(
        in_channels=64,
        stride=8,
        assigner=L(SimOTA)(radius=1.5, topk=10),
        channels=96,
        num_classes=1,
        pre_nms_topk=64,
        nms_threshold=0.7,
        max_detections=16,
    ),
    tracker=None,
)
