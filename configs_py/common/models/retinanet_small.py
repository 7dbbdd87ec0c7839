"""A small RetinaNet for images of about 128 px, one frame at a time: stride 8, trained from scratch on a CPU in minutes."""

from ultravid.config import LazyCall as L
from ultravid.layers import Box2BoxTransform
from ultravid.modeling import AnchorGenerator, Matcher, OneStage, ResNet, RetinaNet

model = L(OneStage)(
    backbone=L(ResNet)(num_blocks=(1, 1, 1), channels=(16, 32, 64), strides=(1, 2, 1), stem_channels=16, norm="BN"),
    feature_context=None,
    dense_head=L(RetinaNet)(
        in_channels=64,
        anchor_generator=L(AnchorGenerator)(shapes=[(18, 12), (28, 18), (38, 26)], stride=8, offset=0.5),
        anchor_matcher=L(Matcher)(thresholds=(0.4, 0.5), labels=(0, -1, 1), allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        num_classes=1,
        norm="GN",
        score_threshold=0.01,
        pre_nms_topk=256,
        nms_threshold=0.5,
        max_detections=16,
    ),
    tracker=None,
)
