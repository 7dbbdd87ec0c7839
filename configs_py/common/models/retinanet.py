"""RetinaNet on res4 of a ResNet-34, one frame at a time: stem and res2 frozen, all batch norm frozen, stride 16, no FPN."""

from ultravid.config import LazyCall as L
from ultravid.layers import Box2BoxTransform
from ultravid.modeling import AnchorGenerator, Matcher, OneStage, ResNet, RetinaNet, anchor_shapes

model = L(OneStage)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    feature_context=None,
    dense_head=L(RetinaNet)(
        in_channels=256,
        anchor_generator=L(AnchorGenerator)(
            shapes=L(anchor_shapes)(sizes=[32, 64, 128, 256, 512], aspect_ratios=[0.33, 0.5, 0.66, 1.0, 2.0, 3.0]),
            stride=16,
        ),
        anchor_matcher=L(Matcher)(thresholds=(0.3, 0.5), labels=(0, -1, 1), allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        num_classes=1,
        score_threshold=0.05,
        pre_nms_topk=1000,
        nms_threshold=0.5,
        max_detections=100,
        focal_alpha=0.25,
        focal_gamma=1.5,
        smooth_l1_beta=0.0,
        normalizer_momentum=0.9,
    ),
    tracker=None,
)
