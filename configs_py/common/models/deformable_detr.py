"""Deformable DETR on res4 of a ResNet-34: 16 queries, 2 encoder and 4 decoder layers, box refinement; one frame at a time."""

from ultravid.config import LazyCall as L
from ultravid.modeling import DeformableEncoder, HungarianAssigner, Query, QueryCriterion, QueryDecoder, ResNet

model = L(Query)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    encoder=L(DeformableEncoder)(
        in_channels=256, dim=256, num_layers=2, num_heads=8, num_points=4, ffn_dim=512, dropout=0.1
    ),
    decoder=L(QueryDecoder)(
        dim=256,
        num_queries=16,
        num_layers=4,
        num_heads=8,
        num_points=4,
        ffn_dim=512,
        num_classes=1,
        prior=0.01,
        dropout=0.1,
    ),
    criterion=L(QueryCriterion)(
        assigner=L(HungarianAssigner)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        final_weights=None,
    ),
    feature_context=None,
    memory_context=None,
    query_context=None,
    nms_threshold=0.7,
)
