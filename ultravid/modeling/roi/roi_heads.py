"""The arguments of a second stage under the names that configs of version 0.1 have for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ultravid.layers import RelationModule
from ultravid.modeling.assign import Matcher
from ultravid.modeling.roi.box_predictor import BoxPredictor
from ultravid.utils.limits import NotNegative, Positive, Share

__all__ = ["RoIHeads"]


@dataclass(kw_only=True)
class RoIHeads:
    """The second stage that `FasterRCNN` and `BasicDet` are composed of; see `RoIPooler` and `RoISampler` for the arguments.

    Attributes:
        box_pooler: cuts the proposals' parts out of a feature map.
        box_head: from the pooled parts to tokens.
        box_predictor: from tokens to classes and boxes.
        proposal_matcher: which ground truth a proposal is trained towards.
        relation: relates the tokens of proposals; None relates none.
        batch_size_per_image: number of boxes of a frame that are trained on.
        positive_fraction: at most this share of them is foreground.
        gt_copies: copies of each ground-truth box that are added to the proposals in training.
        gt_jitter: standard deviation of the copies' shift, as a share of the box's sides, and of the logarithm of their size.
        roi_scale: factor by which boxes are enlarged about their center before pooling.
    """

    box_pooler: nn.Module
    box_head: nn.Module
    box_predictor: BoxPredictor
    proposal_matcher: Matcher
    relation: RelationModule | None = None
    batch_size_per_image: Positive = 16
    positive_fraction: Share = 0.5
    gt_copies: NotNegative = 1
    gt_jitter: float = 0.0
    roi_scale: float = 1.0
