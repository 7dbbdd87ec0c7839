"""The mean of a frame's map and that of an earlier frame (CVA-Net, as UltraDet's published code has it).

Legend: ``B`` clips, ``T`` frames of a clip, ``C, h, w`` channels, height, width of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.modeling.feature_context.base import FeatureContext
from ultravid.modeling.frame_window import FrameWindow
from ultravid.modeling.map_size import map_size
from ultravid.modeling.types import State
from ultravid.utils.limits import Positive

__all__ = ["FrameFusion"]


class FrameFusion(FeatureContext):
    """Each map is averaged with the one ``lag`` frames before; before there is one, with that of the first frame.

    This is CVA-Net as UltraDet's authors re-implemented it for their comparison (arXiv 2305.18060). The model of Lin et al. ("A new dataset
    and a baseline model for breast lesion detection in ultrasound videos", MICCAI 2022) has more: attention within and between the
    clip's neighbouring frames and shuffled frames of the whole video (inter-video fusion), 300 queries, and a branch that calls the
    whole video benign or malignant. It is not causal.

    In training, clips of ``lag`` memory frames and as many local ones pair local frame i with memory frame i.

    Args:
        channels: ``C``.
        stride: pixels from one cell to the next.
        lag: how many frames before.
        channel_pairs: average neighbouring channels of the two maps instead, the earlier map's first, as the published code does: then no
            channel mixes the frames, and the first half of the result is the earlier frame's, the second the current one's.

    Raises:
        ValueError: ``channel_pairs`` with an odd number of channels.
    """

    def __init__(
        self, *, channels: Positive = 256, stride: Positive = 16, lag: Positive = 8, channel_pairs: bool = False
    ) -> None:
        super().__init__()
        if channel_pairs and channels % 2:
            raise ValueError(f"channel_pairs needs an even number of channels, got channels={channels}.")
        self.channels = channels
        self.stride = stride
        self.lag = lag
        self.channel_pairs = channel_pairs
        self.window = FrameWindow(lag + 1)

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """As `FeatureContext.initial_state`: a ring of the maps of the last ``lag + 1`` frames."""
        size = map_size(image_size, self.stride)
        return self.window.initial_state(device, maps=((self.channels, *size), torch.float32))

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """As `FeatureContext.clip`: each frame averaged with the one ``lag`` places before it, or with the first of the clip."""
        del images, frame_valid  # frames of padding come last, so no other frame is paired with them
        partner = (torch.arange(maps.shape[1], device=maps.device) - self.lag).clamp(min=0)
        return self._fuse(maps[:, partner], maps)

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """As `FeatureContext.step`: the frame averaged with the one ``lag`` frames before it, or with the first of the stream."""
        del image
        ring = self.window.push(state, maps=feature_map[0])
        oldest = ring["valid"].int().argmax(dim=0, keepdim=True)  # the first valid place
        partner = ring["maps"].index_select(0, oldest).to(feature_map.dtype)
        return self._fuse(partner, feature_map), ring

    def _fuse(self, earlier: Tensor, current: Tensor) -> Tensor:
        if not self.channel_pairs:
            return (earlier + current) * 0.5
        both = torch.cat((earlier, current), dim=-3)
        return both.unflatten(-3, (-1, 2)).mean(dim=-3)
