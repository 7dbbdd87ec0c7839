"""YOLOX's head on res4 of a ResNet-34, one frame at a time: stem and res2 frozen, batch norm of the backbone frozen, stride 16, no FPN."""

from ultravid.config import LazyCall as L
from ultravid.modeling import YOLOX, OneStage, ResNet, SimOTA

model = L(OneStage)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    feature_context=None,
    dense_head=L(YOLOX)(
        in_channels=256,
        stride=16,
        assigner=L(SimOTA)(radius=2.5, topk=10),
        channels=256,
        num_classes=1,
        pre_nms_topk=256,
        nms_threshold=0.7,
        max_detections=16,
        iou_loss_weight=5.0,
        l1_loss_weight=1.0,
    ),
    tracker=None,
)
