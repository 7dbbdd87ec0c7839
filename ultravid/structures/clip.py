"""One training sample: frames of a video that the model sees together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultravid.structures.instances import Instances

__all__ = ["Clip"]


@dataclass
class Clip:
    """``T`` frames of a video in temporal order, after augmentation.

    Legend: ``T`` frames, ``H, W`` height and width in pixels (the same for all frames of a clip).

    Attributes:
        frames: ``(T, 3, H, W)``, uint8 or float32, RGB in 0..255.
        instances: per frame, with ``gt_boxes`` (XYXY, absolute pixels of the augmented frame), ``gt_classes`` (int64)
            and ``gt_ids`` (int64, the lesion's track); empty if the frame shows no lesion.
        video_ids: per frame; they differ only if frames of several videos were mixed on purpose.
        frame_indices: per frame, its place in its video, from 0.
        position: number of this sample in the run, from 0.
        organ: the organ that was scanned, "" if it is not known; a model may weight its loss by it.
        num_memory: number of leading frames that are memory frames: later frames may use them, and they carry no loss.
    """

    frames: Tensor
    instances: list[Instances]
    video_ids: list[str]
    frame_indices: list[int]
    position: int = 0
    organ: str = ""
    num_memory: int = 0

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def to(self, device: torch.device | str) -> Clip:
        """The same clip with its frames and instances on a device; channels that share their memory still do."""
        shared = self.frames.stride(1) == 0
        frames = (self.frames[:, :1] if shared else self.frames).to(device)
        instances = [i.to(device) for i in self.instances]
        return replace(self, frames=frames.expand_as(self.frames) if shared else frames, instances=instances)
