"""Two-stage detectors: proposals, one token for each, relations between tokens, classes and boxes.

Legend: ``B`` clips, ``T`` frames of a clip, ``C, h, w`` channels, height, width of the feature map, ``N`` boxes of a frame, ``D`` width of
a token, ``K`` rows of detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ultravid.modeling.dense import DenseHead
from ultravid.modeling.detector import ClipBatch, DetectorArguments, VideoDetector
from ultravid.modeling.families.map_check import check_map_arguments
from ultravid.modeling.families.maps import clip_maps, image_sizes
from ultravid.modeling.feature_context import FeatureContext, NoFeatureContext
from ultravid.modeling.roi import BoxPredictor, RoIPooler, RoISampler, SampledBoxes
from ultravid.modeling.token_mixer import NoMixer, TokenMixer
from ultravid.modeling.types import Detections, FrameTokens, State
from ultravid.structures import Clip

__all__ = ["TwoStage"]


class TwoStage(VideoDetector):
    """A two-stage detector (Ren et al., "Faster R-CNN", NeurIPS 2015) on one feature map, whose parts may remember earlier frames.

    Args:
        backbone: from images ``(B, 3, H, W)`` to features ``(B, C, ceil(H / s), ceil(W / s))``.
        proposal_head: from features to proposals; it is trained with one class for all objects.
        roi_pooler: computes tokens of proposals.
        roi_sampler: which proposals the second stage is trained on.
        box_predictor: computes classes and boxes from tokens.
        feature_context: relates feature maps of several frames; None for none.
        token_mixer: relates tokens of a frame, or of several; None for none.
        kwargs: arguments of `VideoDetector`.

    Raises:
        ValueError: a part is made for another stride or width than the backbone's.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_head: DenseHead,
        roi_pooler: RoIPooler,
        roi_sampler: RoISampler,
        box_predictor: BoxPredictor,
        feature_context: FeatureContext | None = None,
        token_mixer: TokenMixer | None = None,
        **kwargs: Unpack[DetectorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.feature_context = feature_context or NoFeatureContext()
        self.proposal_head = proposal_head
        self.roi_pooler = roi_pooler
        self.roi_sampler = roi_sampler
        self.token_mixer = token_mixer or NoMixer()
        self.box_predictor = box_predictor
        check_map_arguments(self)
        self.resolve_organs()

    @property
    def num_phases(self) -> int:
        """`TokenMixer.num_phases` of the token mixer."""
        return self.token_mixer.num_phases

    def phase(self, frame_number: int) -> int:
        """`TokenMixer.phase` of the token mixer, for the same ``frame_number``."""
        return self.token_mixer.phase(frame_number)

    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        """As `VideoDetector.initial_state`: the states of the feature context and of the token mixer, and the organ."""
        num_boxes = self.proposal_head.num_detections(image_size)
        return {
            "feature_context": self.feature_context.initial_state(image_size, self.device),
            "token_mixer": self.token_mixer.initial_state(image_size, num_boxes, self.device),
            "organ": self.organ_index(organ),
        }

    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        x = self.normalize(image)[None]
        organ = state["organ"][None]
        feature, context_state = self.feature_context.step(self.backbone(x), x, state["feature_context"])
        sizes = image_sizes(x)
        proposals = self.proposal_head.decode(self.proposal_head(feature, organ), sizes)
        boxes, valid = proposals.boxes, proposals.valid
        tokens = self.roi_pooler(feature, boxes)
        present = valid.new_ones(())
        frame = FrameTokens(
            tokens[0], boxes[0], valid[0], torch.zeros_like(valid[0]), present, ~present, x[0], feature[0]
        )
        tokens, mixer_state = self.token_mixer.step(frame, self.roi_pooler, state["token_mixer"], phase)
        predictions = self.box_predictor(tokens[None], organ)
        detections = self.box_predictor.decode(predictions, boxes, valid, sizes).frame(0)
        return detections, {"feature_context": context_state, "token_mixer": mixer_state, "organ": state["organ"]}

    @torch.no_grad()
    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        """As `VideoDetector.detect_clip`, with ``K`` of `BoxPredictor.num_detections`."""
        images, frame_valid, organs = self.one_clip(frames, organ)
        features = self.feature_context.clip(clip_maps(self.backbone, images), images, frame_valid)
        sizes = image_sizes(images[0])
        proposals = self.proposal_head.decode(self.proposal_head(features[0], organs), sizes)
        tokens = self.roi_pooler(features[0], proposals.boxes)
        no = torch.zeros_like(proposals.valid)
        clip = FrameTokens(
            tokens=tokens[None],
            boxes=proposals.boxes[None],
            valid=proposals.valid[None],
            is_gt=no[None],
            frame_valid=frame_valid,
            is_memory=~frame_valid,
            image=images,
            feature_map=features,
        )
        tokens = self.token_mixer.clip(clip, self.roi_pooler)[0]
        return self.box_predictor.decode(self.box_predictor(tokens, organs), proposals.boxes, proposals.valid, sizes)

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """As `VideoDetector.losses`: those of the proposal head, ``loss_cls`` and ``loss_box_reg``, over all frames that carry a loss."""
        batch = self.batch(clips)
        organ = batch.organ.repeat_interleave(batch.images.shape[1])
        maps = self._maps(batch.images, min(clip.num_memory for clip in clips))
        features = self.feature_context.training_clip(maps, batch.images, batch.frame_valid)
        predictions = self.proposal_head(features.flatten(0, 1), organ)
        objects = batch.targets._replace(classes=torch.zeros_like(batch.targets.classes))
        losses = self.proposal_head.losses(predictions, objects)
        proposals = self.proposal_head.decode(predictions, batch.targets.image_sizes)
        sampled = self.roi_sampler(proposals, batch.targets)
        tokens = self.roi_pooler(features.flatten(0, 1), sampled.boxes)
        tokens = self.token_mixer.training_clip(_clip_tokens(tokens, sampled, batch, features), self.roi_pooler)
        losses.update(
            self.box_predictor.losses(self.box_predictor(tokens.flatten(0, 1), organ), sampled, batch.targets.weight)
        )
        return losses

    def _maps(self, images: Tensor, num_memory: int) -> Tensor:
        """``(B, T, C, h, w)``; the first ``num_memory`` frames of each clip without gradient, if they get none.

        They get one through a feature context, which gives later frames what their maps show, and through norms that are trained: all
        frames count in the statistics of one batch. If all frames of a clip are memory, one keeps its gradient, of zero, so that every
        parameter has one, as DDP needs.
        """
        num_memory = min(num_memory, images.shape[1] - 1)
        related = self.feature_context.relates_frames or any(
            isinstance(module, _BatchNorm) and module.training for module in self.backbone.modules()
        )
        if num_memory == 0 or related or not self.token_mixer.detaches_memory:
            return clip_maps(self.backbone, images, self.gradient_checkpointing)
        with torch.no_grad():
            memory = clip_maps(self.backbone, images[:, :num_memory])
        local = clip_maps(self.backbone, images[:, num_memory:], self.gradient_checkpointing)
        return torch.cat((memory, local), dim=1)


def _clip_tokens(tokens: Tensor, sampled: SampledBoxes, batch: ClipBatch, features: Tensor) -> FrameTokens:
    by_clip = batch.frame_valid.shape
    return FrameTokens(
        tokens=tokens.unflatten(0, by_clip),
        boxes=sampled.boxes.unflatten(0, by_clip),
        valid=sampled.valid.unflatten(0, by_clip),
        is_gt=sampled.is_gt.unflatten(0, by_clip),
        frame_valid=batch.frame_valid,
        is_memory=batch.is_memory,
        image=batch.images,
        feature_map=features,
    )
