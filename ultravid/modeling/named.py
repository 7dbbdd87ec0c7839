"""Detectors by the names of their papers, as functions that compose a family.

A config may name these or compose the family itself, as `configs_py/common/models` does.
"""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ultravid.modeling.dense import DenseHead
from ultravid.modeling.detector import DetectorArguments
from ultravid.modeling.families import TwoStage
from ultravid.modeling.roi import RoIHeads, RoIPooler, RoISampler
from ultravid.modeling.token_mixer import RelationMixer, TokenMixer
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["BasicDet", "FasterRCNN"]


def FasterRCNN(  # noqa: N802 - the name of a class, which it was in version 0.1
    *, backbone: nn.Module, proposal_generator: DenseHead, roi_heads: RoIHeads, **kwargs: Unpack[DetectorArguments]
) -> TwoStage:
    """Faster R-CNN (Ren et al., NeurIPS 2015) on one feature map, one frame at a time.

    Args:
        backbone: as of `TwoStage`.
        proposal_generator: from features to proposals.
        roi_heads: the second stage.
        kwargs: arguments of `VideoDetector`.
    """
    mixer = None if roi_heads.relation is None else RelationMixer(relation=roi_heads.relation, context_frames=0)
    return _two_stage(backbone, proposal_generator, roi_heads, mixer, kwargs)


def BasicDet(  # noqa: N802 - the name of a class, which it was in version 0.1
    *,
    backbone: nn.Module,
    proposal_generator: DenseHead,
    roi_heads: RoIHeads,
    context_frames: NotNegative = 15,
    context_stride: Positive = 1,
    causal: bool = False,
    **kwargs: Unpack[DetectorArguments],
) -> TwoStage:
    """Faster R-CNN whose boxes relate to those of the frames before (after Deng et al., "RDN", ICCV 2019).

    Args:
        backbone: as of `TwoStage`.
        proposal_generator: from features to proposals.
        roi_heads: the second stage, with ``relation``.
        context_frames: as of `RelationMixer`.
        context_stride: as of `RelationMixer`.
        causal: as of `RelationMixer`.
        kwargs: arguments of `VideoDetector`.

    Raises:
        ValueError: ``roi_heads`` has no relation.
    """
    if roi_heads.relation is None:
        raise ValueError("BasicDet needs roi_heads.relation; the detector without it is FasterRCNN.")
    mixer = RelationMixer(
        relation=roi_heads.relation, context_frames=context_frames, context_stride=context_stride, causal=causal
    )
    return _two_stage(backbone, proposal_generator, roi_heads, mixer, kwargs)


def _two_stage(
    backbone: nn.Module, proposals: DenseHead, heads: RoIHeads, mixer: TokenMixer | None, kwargs: DetectorArguments
) -> TwoStage:
    return TwoStage(
        backbone=backbone,
        proposal_head=proposals,
        roi_pooler=RoIPooler(box_pooler=heads.box_pooler, head=heads.box_head, roi_scale=heads.roi_scale),
        roi_sampler=RoISampler(
            matcher=heads.proposal_matcher,
            num_samples=heads.batch_size_per_image,
            positive_fraction=heads.positive_fraction,
            gt_copies=heads.gt_copies,
            gt_jitter=heads.gt_jitter,
        ),
        token_mixer=mixer,
        box_predictor=heads.box_predictor,
        **kwargs,
    )
