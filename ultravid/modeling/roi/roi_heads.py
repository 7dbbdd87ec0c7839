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
    """The second stage that `FasterRCNN` and `BasicDet` are composed of; see `RoIPooler` and `RoISampler` for the arguments."""

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
