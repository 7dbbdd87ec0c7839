"""Two-stage detectors of lesions in video.

Legend: ``B`` frames of all clips together, ``T`` frames of a clip, ``C, H, W`` feature channels, height, width,
``N`` boxes, ``D`` width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ultravid.layers import RelationModule, geometry_embedding
from ultravid.modeling.context import FrameMemory, FrameTokens
from ultravid.modeling.heads import RoIHeads
from ultravid.modeling.postprocessing import detector_postprocess
from ultravid.modeling.proposal import RPN
from ultravid.structures import Boxes, Clip, ImageList, Instances
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["BasicDet", "FasterRCNN", "relation_mask"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class FasterRCNN(nn.Module):
    """Faster R-CNN (Ren et al., NeurIPS 2015) on one feature map, one frame at a time.

    Training: ``model(list[Clip])`` gives a dict of losses. Evaluation: ``model([{"image", "height", "width",
    "video_id", ...}])`` gives ``[{"instances"}]``, one for each frame, in order; ``image`` is ``(3, H, W)``, RGB in 0..255.

    Args:
        backbone: from images ``(B, 3, H, W)`` to features ``(B, C, H / s, W / s)``.
        proposal_generator: from features to proposals.
        roi_heads: from proposals to detections.
        pixel_mean: of R, G, B in 0..255.
        pixel_std: of R, G, B.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: RPN,
        roi_heads: RoIHeads,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(-1, 1, 1))

    @property
    def device(self) -> torch.device:
        """The device of the model; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, inputs: list[Any]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Losses of clips in training, detections of frames in evaluation, in the form that the class describes."""
        if self.training:
            return self.losses(inputs)
        return [{"instances": self.detect(frame)} for frame in inputs]

    def normalize(self, image: Tensor) -> Tensor:
        """``(..., 3, H, W)`` in 0..255 to zero mean and unit variance, on the model's device."""
        return (image.to(self.device, non_blocking=True).float() - self.pixel_mean) / self.pixel_std

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Losses over all frames of all clips.

        Clips of different sizes are padded on the right and at the bottom to the largest.
        """
        sizes = [(int(c.frames.shape[-2]), int(c.frames.shape[-1])) for c in clips]
        images = ImageList.from_tensors([self.normalize(c.frames) for c in clips]).tensor.flatten(0, 1)
        gt = [instances.to(self.device) for clip in clips for instances in clip.instances]
        features = self.backbone(images)
        image_size = (int(images.shape[-2]), int(images.shape[-1]))
        proposals, losses = self.proposal_generator(features, image_size, gt)
        if len(set(sizes)) > 1:
            frame_sizes = [size for clip, size in zip(clips, sizes, strict=True) for _ in range(len(clip))]
            proposals = [_inside(p, size) for p, size in zip(proposals, frame_sizes, strict=True)]
        sampled = self.roi_heads.sample(proposals, gt)
        tokens = self.roi_heads.tokens(features, [s.proposal_boxes.tensor for s in sampled])
        tokens = self.relate_clips(tokens, sampled, [len(c) for c in clips])
        predictor = self.roi_heads.box_predictor
        logits, deltas = predictor(tokens)
        losses.update(predictor.losses(logits, deltas, Instances.cat(sampled)))
        return losses

    def relate_clips(self, tokens: Tensor, sampled: Sequence[Instances], clip_lengths: Sequence[int]) -> Tensor:
        """``(N, D)`` tokens related to the other frames of their clip; here, for single frames, unchanged."""
        del sampled, clip_lengths
        return tokens

    @torch.no_grad()
    def detect(self, frame: dict[str, Any]) -> Instances:
        """Detections of the next frame, in pixels of its ``height`` and ``width``, by default those of its image."""
        image = self.normalize(frame["image"])
        image_size = (int(image.shape[-2]), int(image.shape[-1]))
        features = self.backbone(image[None])
        (proposals,), _ = self.proposal_generator(features, image_size)
        boxes = proposals.proposal_boxes.tensor
        tokens = self.relate_frame(self.roi_heads.tokens(features, [boxes]), boxes, frame)
        predictor = self.roi_heads.box_predictor
        logits, deltas = predictor(tokens)
        detections = predictor.inference(logits, deltas, boxes, image_size)
        return detector_postprocess(detections, frame.get("height", image_size[0]), frame.get("width", image_size[1]))

    def relate_frame(self, tokens: Tensor, boxes: Tensor, frame: dict[str, Any]) -> Tensor:
        """``(N, D)`` tokens of a frame's boxes ``(N, 4)`` related to earlier frames; here, for single frames, unchanged."""
        del boxes, frame
        return tokens

    def reset(self) -> None:
        """Forget the video; a detector of single frames has no memory."""


class BasicDet(FasterRCNN):
    """Faster R-CNN whose boxes relate to those of the frames before (after Deng et al., "RDN", ICCV 2019).

    Training relates the frames of a clip; evaluation keeps a `FrameMemory` of the frames before, which it clears when
    ``stream_id`` (or else ``video_id``) of the input changes.

    Args:
        context_frames: number of earlier frames that a relation layer sees; 0 relates only the boxes of the frame itself.
        context_stride: frames from one context frame to the next in evaluation; sample training clips with the same stride.
        causal: a frame's tokens see no later frame, in training and in evaluation, which then keeps the outputs of each
            layer for the earlier frames and computes only the newest. Without it all frames of a clip or window see each
            other, in training whatever ``context_frames`` is, as in the published model; evaluation never uses a later frame.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: RPN,
        roi_heads: RoIHeads,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        causal: bool = False,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        if roi_heads.relation is None:
            raise ValueError("BasicDet needs roi_heads.relation; the detector without it is FasterRCNN.")
        self.context_frames = context_frames
        self.causal = causal
        self.memory = FrameMemory(context_frames + 1, context_stride)
        self.stream_id: object = None

    @property
    def relation(self) -> RelationModule:
        """The relation layers; they belong to the heads, and so do the names of their weights."""
        assert self.roi_heads.relation is not None
        return self.roi_heads.relation

    def relate_clips(self, tokens: Tensor, sampled: Sequence[Instances], clip_lengths: Sequence[int]) -> Tensor:
        """``(N, D)``: each clip's tokens related to those that `relation_mask` allows."""
        related, rows, frames = [], tokens.split([len(s) for s in sampled]), list(sampled)
        start = 0
        for length in clip_lengths:
            clip = frames[start : start + length]
            frame = torch.cat([s.is_gt.new_full((len(s),), t, dtype=torch.int64) for t, s in enumerate(clip)])
            is_gt = torch.cat([s.is_gt for s in clip])
            boxes = torch.cat([s.proposal_boxes.tensor for s in clip])
            mask = relation_mask(frame, self.context_frames, self.causal) & ~is_gt[None, :]
            related.append(self.relation(torch.cat(rows[start : start + length]), boxes, mask))
            start += length
        return torch.cat(related)

    def relate_frame(self, tokens: Tensor, boxes: Tensor, frame: dict[str, Any]) -> Tensor:
        """``(N, D)``: the frame's tokens related to those of the window, whose frames are related to each other too."""
        stream_id = frame.get("stream_id", frame.get("video_id"))
        if stream_id != self.stream_id:
            self.reset()
            self.stream_id = stream_id
        current = FrameTokens([tokens], boxes)
        self.memory.append(current)
        window = self.memory.window()
        window_boxes = torch.cat([f.boxes for f in window])
        if self.causal:
            # The outputs of a layer for an earlier frame do not change any more, so they are kept.
            geometry = geometry_embedding(boxes, window_boxes, self.relation.div_mat)
            for index, layer in enumerate(self.relation.layers):
                keys = torch.cat([f.inputs[index] for f in window])
                current.inputs.append(layer(current.inputs[index], keys, geometry, None))
            return current.inputs[-1]
        window_tokens = torch.cat([f.inputs[0] for f in window])
        return self.relation(window_tokens, window_boxes, num_last=len(tokens))

    def reset(self) -> None:
        """Forget the video."""
        self.memory.clear()
        self.stream_id = None


def relation_mask(frame: Tensor, context_frames: int, causal: bool) -> Tensor:
    """``(N, N)`` bool: the row's token may use the column's.

    Args:
        frame: ``(N,)`` place of each token's frame in its clip.
        context_frames: 0 allows only the token's own frame; with ``causal`` it limits how far back a token sees.
        causal: allow no later frame; otherwise every frame sees every other.
    """
    back = frame[:, None] - frame[None, :]
    if context_frames == 0:
        return back == 0
    return (back >= 0) & (back <= context_frames) if causal else torch.ones_like(back, dtype=torch.bool)


def _inside(proposals: Instances, size: tuple[int, int]) -> Instances:
    """Proposals clipped to their frame if the batch was padded, without those that lie in the padding."""
    boxes = Boxes(proposals.proposal_boxes.tensor)
    boxes.clip(size)
    keep = boxes.nonempty()
    clipped = Instances(size, proposal_boxes=boxes, objectness_logits=proposals.objectness_logits)
    return clipped[keep]
