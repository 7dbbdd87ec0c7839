"""Query-based detectors: an encoder over the feature map, queries that attend to it, classes and boxes of the queries.

Legend: ``B`` clips, ``T`` frames of a clip, ``C, h, w`` channels, height, width of the feature map, ``Q`` queries, ``K`` rows of detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ultravid.modeling.detector import ClipBatch, DetectorArguments, VideoDetector
from ultravid.modeling.families.map_check import check_map_arguments
from ultravid.modeling.families.maps import clip_maps, image_sizes
from ultravid.modeling.feature_context import FeatureContext, NoFeatureContext
from ultravid.modeling.query import (
    Cells,
    DeformableEncoder,
    NoQueryContext,
    QueryContext,
    QueryCriterion,
    QueryDecoder,
    detections_of_queries,
)
from ultravid.modeling.types import Detections, State
from ultravid.structures import Clip
from ultravid.utils.limits import Share

__all__ = ["Query"]


class Query(VideoDetector):
    """A query-based detector (Zhu et al., "Deformable DETR", ICLR 2021) on one feature map, whose parts may remember earlier frames.

    Images of several sizes in a batch: what follows the backbone computes for each image what it would compute for the image by itself, given
    the same features. The backbone sees the padding, as in every family, so features near the padded border differ a little.

    Args:
        backbone: from images ``(B, 3, H, W)`` to features ``(B, C, ceil(H / s), ceil(W / s))``; ``stride`` is its s.
        encoder: computes a map for queries from features.
        decoder: computes queries and their predictions from that map.
        criterion: the losses.
        feature_context: relates feature maps of several frames; None for none.
        memory_context: relates the encoder's maps of several frames; None for none.
        query_context: relates the queries of several frames; None for none.
        nms_threshold: a detection whose IoU with a better one is larger is dropped; 1 keeps all.
        kwargs: arguments of `VideoDetector`.

    Raises:
        ValueError: ``query_context`` has another number of queries or of classes than ``decoder``, or a part is made for another stride or
            width than the backbone's.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        encoder: DeformableEncoder,
        decoder: QueryDecoder,
        criterion: QueryCriterion | None = None,
        feature_context: FeatureContext | None = None,
        memory_context: FeatureContext | None = None,
        query_context: QueryContext | None = None,
        nms_threshold: Share = 0.7,
        **kwargs: Unpack[DetectorArguments],
    ) -> None:
        super().__init__(**kwargs)
        for what in ("num_queries", "num_classes"):
            before = getattr(decoder, what, None)
            after = getattr(query_context, what, before)
            if after != before:
                raise ValueError(f"query_context has {what}={after}, decoder {what}={before}: they must be the same.")
        self.backbone = backbone
        self.feature_context = feature_context or NoFeatureContext()
        self.encoder = encoder
        self.memory_context = memory_context or NoFeatureContext()
        self.decoder = decoder
        self.query_context = query_context or NoQueryContext()
        self.criterion = criterion or QueryCriterion()
        self.nms_threshold = nms_threshold
        check_map_arguments(self)
        self.resolve_organs()

    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        """As `VideoDetector.initial_state`: the states of the three contexts, and the organ."""
        return {
            "feature_context": self.feature_context.initial_state(image_size, self.device),
            "memory_context": self.memory_context.initial_state(image_size, self.device),
            "query_context": self.query_context.initial_state(image_size, self.device),
            "organ": self.organ_index(organ),
        }

    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        del phase
        x = self.normalize(image)[None]
        feature, feature_state = self.feature_context.step(self.backbone(x), x, state["feature_context"])
        memory, memory_state = self.memory_context.step(self.encoder(feature), x, state["memory_context"])
        queries = self.decoder(memory, organ=state["organ"][None]).frame(0)
        predictions, query_state = self.query_context.step(queries, state["query_context"])
        detections = detections_of_queries(predictions.batched(), image_sizes(x), self.nms_threshold).frame(0)
        return detections, {
            "feature_context": feature_state,
            "memory_context": memory_state,
            "query_context": query_state,
            "organ": state["organ"],
        }

    @torch.no_grad()
    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        """As `VideoDetector.detect_clip`, with one row for each of the ``Q`` queries."""
        images, frame_valid, organs = self.one_clip(frames, organ)
        features = self.feature_context.clip(clip_maps(self.backbone, images), images, frame_valid)
        memory = self.memory_context.clip(self.encoder(features[0])[None], images, frame_valid)
        queries = self.decoder(memory[0], organ=organs)
        predictions = self.query_context.clip(queries.in_clips(frame_valid.shape), frame_valid)[-1]
        return detections_of_queries(predictions.frame(0), image_sizes(images[0]), self.nms_threshold)

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """As `VideoDetector.losses`: those of the criterion, over all frames that carry a loss."""
        batch = self.batch(clips)
        maps = clip_maps(self.backbone, batch.images, self.gradient_checkpointing)
        features = self.feature_context.training_clip(maps, batch.images, batch.frame_valid)
        batch, features = self._without_memory(batch, features, min(clip.num_memory for clip in clips))
        by_clip, map_size = batch.frame_valid.shape, (features.shape[-2], features.shape[-1])
        cells = None
        if len({clip.frames.shape[-2:] for clip in clips}) > 1:
            cells = Cells.of(batch.targets.image_sizes, int(self.backbone.stride), map_size)  # type: ignore[arg-type]
        encoded = self.encoder(features.flatten(0, 1), cells).unflatten(0, by_clip)
        memory = self.memory_context.training_clip(encoded, batch.images, batch.frame_valid).flatten(0, 1)
        queries = self.decoder(memory, cells, batch.organ.repeat_interleave(by_clip[1])).in_clips(by_clip)
        predictions = self.query_context.clip(queries, batch.frame_valid)
        return self.criterion([p.flatten(0, 1) for p in predictions], batch.targets)

    def _without_memory(self, batch: ClipBatch, features: Tensor, count: int) -> tuple[ClipBatch, Tensor]:
        """Without the first ``count`` frames, if no part after the feature context relates frames: they carry no loss."""
        count = min(count, batch.frame_valid.shape[1] - 1)  # clips that are all memory keep a frame, whose weight is 0
        if count == 0 or self.memory_context.relates_frames or self.query_context.relates_frames:
            return batch, features
        by_clip = batch.frame_valid.shape
        targets = (field.unflatten(0, by_clip)[:, count:].flatten(0, 1) for field in batch.targets)
        return (
            batch._replace(
                images=batch.images[:, count:],
                frame_valid=batch.frame_valid[:, count:],
                is_memory=batch.is_memory[:, count:],
                targets=type(batch.targets)(*targets),
            ),
            features[:, count:],
        )
