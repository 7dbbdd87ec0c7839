"""FCOS on res4 of a ResNet-34, one frame at a time: stem and res2 frozen, all batch norm frozen, stride 16, no FPN."""

from ultravid.config import LazyCall as L
from ultravid.modeling import FCOS, CenterSampling, OneStage, ResNet

model = L(OneStage)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    feature_context=None,
    dense_head=L(FCOS)(
        in_channels=256,
        stride=16,
        assigner=L(CenterSampling)(radius=1.5),
        num_classes=1,
        score_threshold=0.05,
        pre_nms_topk=256,
        nms_threshold=0.7,
        max_detections=16,
        focal_alpha=0.5,
        focal_gamma=2.0,
    ),
    tracker=None,
)
