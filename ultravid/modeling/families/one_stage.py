"""One-stage detectors: a head that predicts classes and boxes at each cell of a feature map.

Legend: ``B`` clips, ``T`` frames of a clip, ``C, h, w`` channels, height, width of the feature map, ``K`` rows of detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ultravid.modeling.dense import DenseHead
from ultravid.modeling.detector import DetectorArguments, VideoDetector
from ultravid.modeling.families.map_check import check_map_arguments
from ultravid.modeling.families.maps import clip_maps, image_sizes
from ultravid.modeling.feature_context import FeatureContext, NoFeatureContext
from ultravid.modeling.types import Detections, State
from ultravid.structures import Clip

__all__ = ["OneStage"]


class OneStage(VideoDetector):
    """A one-stage detector on one feature map (as Lin et al., "Focal loss for dense object detection", ICCV 2017).

    Args:
        backbone: from images ``(B, 3, H, W)`` to features ``(B, C, ceil(H / s), ceil(W / s))``.
        dense_head: computes detections from features.
        feature_context: relates feature maps of several frames; None for none.
        kwargs: arguments of `VideoDetector`, ``tracker`` among them.

    Raises:
        ValueError: a part is made for another stride or width than the backbone's.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        dense_head: DenseHead,
        feature_context: FeatureContext | None = None,
        **kwargs: Unpack[DetectorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.feature_context = feature_context or NoFeatureContext()
        self.dense_head = dense_head
        check_map_arguments(self)
        self.resolve_organs()

    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        """As `VideoDetector.initial_state`: the state of the feature context, and the organ."""
        return {
            "feature_context": self.feature_context.initial_state(image_size, self.device),
            "organ": self.organ_index(organ),
        }

    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        del phase
        x = self.normalize(image)[None]
        feature, context_state = self.feature_context.step(self.backbone(x), x, state["feature_context"])
        predictions = self.dense_head(feature, state["organ"][None])
        detections = self.dense_head.decode(predictions, image_sizes(x)).frame(0)
        return detections, {"feature_context": context_state, "organ": state["organ"]}

    @torch.no_grad()
    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        """As `VideoDetector.detect_clip`, with ``K`` of `DenseHead.num_detections`."""
        images, frame_valid, organs = self.one_clip(frames, organ)
        features = self.feature_context.clip(clip_maps(self.backbone, images), images, frame_valid)
        predictions = self.dense_head(features[0], organs)
        return self.dense_head.decode(predictions, image_sizes(images[0]))

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """As `VideoDetector.losses`: those of the dense head, over all frames that carry a loss."""
        batch = self.batch(clips)
        maps = clip_maps(self.backbone, batch.images, self.gradient_checkpointing)
        features = self.feature_context.training_clip(maps, batch.images, batch.frame_valid)
        organ = batch.organ.repeat_interleave(batch.images.shape[1])
        return self.dense_head.losses(self.dense_head(features.flatten(0, 1), organ), batch.targets)
