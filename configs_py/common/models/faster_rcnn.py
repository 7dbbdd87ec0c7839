"""Faster R-CNN on res4 of a ResNet-34, one frame at a time: stem and res2 frozen, all batch norm frozen, stride 16, no FPN."""

from torchvision.ops import RoIAlign

from ultravid.config import LazyCall as L
from ultravid.layers import Box2BoxTransform
from ultravid.modeling import (
    RPN,
    AnchorGenerator,
    BoxPredictor,
    Matcher,
    ResNet,
    RoIPooler,
    RoISampler,
    RPNHead,
    TwoStage,
    anchor_shapes,
    make_stage,
)

model = L(TwoStage)(
    backbone=L(ResNet)(depth=34, norm="FrozenBN", freeze_at=2),
    feature_context=None,
    proposal_head=L(RPN)(
        rpn_head=L(RPNHead)(in_channels=256, num_anchors=30),
        anchor_generator=L(AnchorGenerator)(
            shapes=L(anchor_shapes)(sizes=[32, 64, 128, 256, 512], aspect_ratios=[0.33, 0.5, 0.66, 1.0, 2.0, 3.0]),
            stride=16,
        ),
        box2box_transform=L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=L(Matcher)(thresholds=(0.3, 0.7), labels=(0, -1, 1), allow_low_quality_matches=True),
        batch_size_per_image=256,
        pre_nms_topk=256,
        post_nms_topk=16,
        nms_threshold=0.7,
    ),
    roi_pooler=L(RoIPooler)(
        box_pooler=L(RoIAlign)(output_size=14, spatial_scale=1 / 16, sampling_ratio=0, aligned=True),
        head=L(make_stage)(num_blocks=3, in_channels=256, out_channels=256, stride=2, norm="FrozenBN", project=True),
    ),
    roi_sampler=L(RoISampler)(
        matcher=L(Matcher)(thresholds=(0.5,), labels=(0, 1)), num_samples=16, positive_fraction=0.5
    ),
    box_predictor=L(BoxPredictor)(
        in_features=256,
        num_classes=1,
        box2box_transform=L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0)),
        score_threshold=0.0,
        nms_threshold=0.5,
    ),
    token_mixer=None,  # built last: with one seed, the models that add one begin with equal weights elsewhere
)
