"""DeFCN on res4 of a ResNet-34, one frame at a time: stem and res2 frozen, all batch norm frozen, stride 16, no FPN.

The paper needs no NMS (``nms_threshold=None``); UltraDet's comparison keeps it.
"""

from ultravid.config import LazyCall as L
from ultravid.modeling import DeFCN, OneStage, OneToOne, ResNet, TopQuality

model = L(OneStage)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    feature_context=None,
    dense_head=L(DeFCN)(
        in_channels=256,
        stride=16,
        assigner=L(OneToOne)(iou_power=0.8, radius=1.5),
        aux_assigner=L(TopQuality)(topk=9, iou_power=0.8),
        num_classes=1,
        pre_nms_topk=256,
        nms_threshold=0.7,
        max_detections=16,
        focal_alpha=0.9,
        focal_gamma=2.0,
        box_loss_weight=2.0,
    ),
    tracker=None,
)
