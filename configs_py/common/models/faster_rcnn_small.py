"""A small Faster R-CNN for images of about 128 px, one frame at a time: stride 8, trained from scratch on a CPU in minutes."""

from torchvision.ops import RoIAlign

from ultravid.config import LazyCall as L
from ultravid.layers import Box2BoxTransform
from ultravid.modeling import (
    RPN,
    AnchorGenerator,
    BoxPredictor,
    FCBoxHead,
    Matcher,
    ResNet,
    RoIPooler,
    RoISampler,
    RPNHead,
    TwoStage,
)

model = L(TwoStage)(
    backbone=L(ResNet)(num_blocks=(1, 1, 1), channels=(16, 32, 64), strides=(1, 2, 1), stem_channels=16, norm="BN"),
    feature_context=None,
    proposal_head=L(RPN)(
        rpn_head=L(RPNHead)(in_channels=64, num_anchors=4),
        anchor_generator=L(AnchorGenerator)(shapes=[(10, 7), (18, 12), (28, 18), (60, 16)], stride=8, offset=0.5),
        box2box_transform=L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=L(Matcher)(thresholds=(0.3, 0.6), labels=(0, -1, 1), allow_low_quality_matches=True),
        batch_size_per_image=64,
        pre_nms_topk=64,
        post_nms_topk=10,
        nms_threshold=0.7,
    ),
    roi_pooler=L(RoIPooler)(
        box_pooler=L(RoIAlign)(output_size=7, spatial_scale=1 / 8, sampling_ratio=1, aligned=True),
        head=L(FCBoxHead)(in_channels=64, pooled_size=7, dim=128),
        roi_scale=2.0,
    ),
    roi_sampler=L(RoISampler)(
        matcher=L(Matcher)(thresholds=(0.5,), labels=(0, 1)),
        num_samples=12,
        positive_fraction=0.5,
        gt_copies=2,
        gt_jitter=0.1,
    ),
    box_predictor=L(BoxPredictor)(
        in_features=128,
        num_classes=1,
        box2box_transform=L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0)),
        cls_loss_weight=2.0,
        box_loss_weight=0.5,
    ),
    token_mixer=None,  # built last: with one seed, the models that add one begin with equal weights elsewhere
)
