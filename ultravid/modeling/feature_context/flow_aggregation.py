"""The maps of several frames, warped to one frame and averaged with weights.

Source: Zhu et al., "Flow-guided feature aggregation for video object detection", ICCV 2017.

Legend: ``B`` clips, ``T`` frames of a clip, ``R`` frames of the window, ``C, h, w`` channels, height, width of a feature map, ``E`` width
of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultravid.modeling.feature_context.base import FeatureContext
from ultravid.modeling.flow import FlowWarp
from ultravid.modeling.frame_window import FrameWindow, temporal_mask
from ultravid.modeling.types import State
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["FlowAggregation"]


class FlowAggregation(FeatureContext):
    """A frame's map becomes the mean of the window's maps, warped to the frame, weighted at each cell by the similarity of embeddings.

    A stream uses only earlier frames, and so does a clip with ``causal``. Because a flow of every pair would be too much, in training
    with a real flow each frame is averaged with only ``num_drawn`` of the frames that it sees, drawn from torch's global generator
    ("temporal dropout", section 4.2 of the paper).

    Args:
        warp: warps a map to another frame. With `ZeroFlow` warped maps and their embeddings are computed once and kept.
        channels: ``C``.
        embedding_channels: width of the embedding's hidden layers, and ``E``.
        context_frames: number of earlier frames in the window.
        context_stride: frames from one to the next in the window of a stream; sample training clips with the same stride.
        num_drawn: number of frames that training with a real flow draws for each frame.
        causal: in a clip, in training too, a frame sees no later one; otherwise all frames of a clip see each other.
    """

    def __init__(
        self,
        *,
        warp: FlowWarp,
        channels: Positive = 256,
        embedding_channels: tuple[int, int] = (256, 256),
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        num_drawn: Positive = 2,
        causal: bool = True,
    ) -> None:
        super().__init__()
        hidden, embedded = embedding_channels
        self.warp = warp
        self.embedding = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, embedded, 1),
        )
        self.channels = channels
        self.embedding_channels = embedded
        self.window = FrameWindow(context_frames + 1, context_stride)
        self.num_drawn = num_drawn
        self.causal = causal

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """As `FeatureContext.initial_state`.

        It is a ring of warped maps and their embeddings if they do not depend on the current frame, otherwise of maps and reduced images.
        """
        size = self.warp.map_size(image_size)
        kept: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"maps": ((self.channels, *size), torch.float32)}
        if self.warp.by_frame:
            kept["embeddings"] = ((self.embedding_channels, *size), torch.float32)
        else:
            kept["images"] = (self.warp.reduced_shape(image_size), torch.float32)
        return self.window.initial_state(device, **kept)

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """As `FeatureContext.step`: the weighted mean of the window's maps, ``(1, C, h, w)``, and the next state."""
        if self.warp.by_frame:
            warped, embedded, query_embedding = self._by_frame(feature_map, image)
            ring = self.window.push(state, maps=warped[0], embeddings=embedded[0])
            window = self.window.window(ring)
            maps, embeddings = window["maps"], window["embeddings"]
        else:
            reduced = self.warp.reduce(image)
            ring = self.window.push(state, maps=feature_map[0], images=reduced[0])
            window = self.window.window(ring)
            maps, embeddings, query_embedding = self._warped_to(
                feature_map, reduced, window["maps"][None, :-1], window["images"][None, :-1]
            )
            maps, embeddings = maps[0], embeddings[0]
        return _mean(maps[None], embeddings[None], query_embedding, window["valid"][None]).to(feature_map.dtype), ring

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """As `FeatureContext.clip`: for each frame the weighted mean over the frames that it sees, ``(B, T, C, h, w)``."""
        if self.warp.by_frame:
            return self._clip_by_frame(maps, images, frame_valid)
        reduced = self.warp.reduce(images.flatten(0, 1)).unflatten(0, maps.shape[:2])
        means = []
        for t in range(maps.shape[1]):
            others = self._seen_by(t, maps.shape[1])
            warped, embeddings, query_embedding = self._warped_to(
                maps[:, t], reduced[:, t], maps[:, others], reduced[:, others]
            )
            valid = frame_valid[:, [*others, t]]
            means.append(_mean(warped, embeddings, query_embedding, valid))
        return torch.stack(means, dim=1)

    def training_clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """As `clip`, but with a real flow over the frame itself and ``num_drawn`` random ones of the others that it sees."""
        if self.warp.by_frame:
            return self._clip_by_frame(maps, images, frame_valid)
        length = maps.shape[1]
        reduced = self.warp.reduce(images.flatten(0, 1)).unflatten(0, maps.shape[:2])
        see = temporal_mask(length, self.window.num_frames - 1, self.causal, maps.device)
        see = see & ~torch.eye(length, dtype=torch.bool, device=maps.device) & frame_valid[:, None, :]
        order = torch.rand(see.shape, device=maps.device).masked_fill(~see, -1.0)
        drawn = order.topk(min(self.num_drawn, length), dim=-1).indices  # (B, T, num_drawn)
        valid = see.gather(-1, drawn)
        valid = torch.cat((valid, torch.ones_like(valid[..., :1])), dim=-1)
        clip = torch.arange(len(maps), device=maps.device)[:, None, None]
        others, other_reduced = (x[clip, drawn].flatten(0, 1) for x in (maps, reduced))
        warped, embeddings, query_embedding = self._warped_to(
            maps.flatten(0, 1), reduced.flatten(0, 1), others, other_reduced
        )
        return _mean(warped, embeddings, query_embedding, valid.flatten(0, 1)).unflatten(0, maps.shape[:2])

    def _seen_by(self, t: int, length: int) -> list[int]:
        """The places of a clip that the frame at ``t`` sees, except its own; all of them in `clip` without ``causal``."""
        if not self.causal and self.window.num_frames > 1:
            return [s for s in range(length) if s != t]
        return list(range(max(0, t - self.window.num_frames + 1), t))

    def _by_frame(self, maps: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Warped maps of frames, their embeddings, and those of the maps before warping, ``(B, ...)`` each."""
        reduced = self.warp.reduce(images)
        warped = self.warp(maps, reduced, reduced)
        if warped is maps:
            embedded = self._embed(maps)
            return maps, embedded, embedded
        embedded, query_embedding = self._embed(torch.cat((warped, maps))).chunk(2)
        return warped, embedded, query_embedding

    def _warped_to(
        self, maps: Tensor, reduced: Tensor, others: Tensor, other_reduced: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Other frames' maps, warped to a frame, and its own behind them, with the embeddings of all and of its own.

        Args:
            maps: ``(B, C, h, w)``.
            reduced: ``(B, ...)``.
            others: ``(B, R, C, h, w)``.
            other_reduced: ``(B, R, ...)``.

        Returns:
            ``(B, R + 1, C, h, w)``, ``(B, R + 1, E, h, w)``, ``(B, E, h, w)``.
        """
        num_others = others.shape[1]
        own = maps[:, None]
        if num_others == 0:
            embedded = self._embed(maps)
            return own, embedded[:, None], embedded
        target = reduced.repeat_interleave(num_others, 0)
        warped = self.warp(others.flatten(0, 1), target, other_reduced.flatten(0, 1)).unflatten(0, others.shape[:2])
        warped = torch.cat((warped.to(maps.dtype), own), dim=1)
        embedded = self._embed(warped.flatten(0, 1)).unflatten(0, warped.shape[:2])
        return warped, embedded, embedded[:, -1]

    def _clip_by_frame(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        shape = maps.shape[:2]
        length = shape[1]
        warped, embedded, query_embedding = (
            x.unflatten(0, shape) for x in self._by_frame(maps.flatten(0, 1), images.flatten(0, 1))
        )
        see = temporal_mask(length, self.window.num_frames - 1, self.causal, maps.device) & frame_valid[:, None, :]
        # One small matrix product for each cell of the map: (B, h, w, T, E) by (B, h, w, E, T), then (T, T) by (T, C).
        similarity = query_embedding.permute(0, 3, 4, 1, 2) @ embedded.permute(0, 3, 4, 2, 1)
        weights = similarity.float().masked_fill(~see[:, None, None], -1e9).softmax(dim=-1)
        mean = weights.to(warped.dtype) @ warped.permute(0, 3, 4, 1, 2)
        return mean.permute(0, 3, 4, 1, 2)

    def _embed(self, maps: Tensor) -> Tensor:
        """``(B, E, h, w)`` of unit length at each cell."""
        embedded: Tensor = self.embedding(maps)
        return embedded / (embedded.norm(dim=1, keepdim=True) + 1e-10)


def _mean(maps: Tensor, embeddings: Tensor, query_embedding: Tensor, valid: Tensor) -> Tensor:
    """The mean of each frame's window, weighted at each cell by the softmax of the cosine of embeddings (equation 5).

    Args:
        maps: ``(B, R, C, h, w)``.
        embeddings: ``(B, R, E, h, w)``, of unit length.
        query_embedding: ``(B, E, h, w)``, that of the frame itself.
        valid: ``(B, R)`` bool.

    Returns:
        ``(B, C, h, w)``.
    """
    similarity = torch.stack([(e * query_embedding).sum(dim=1) for e in embeddings.unbind(1)], dim=1)  # (B, R, h, w)
    weights = similarity.float().masked_fill(~valid[..., None, None], -1e9).softmax(dim=1).to(maps.dtype)
    # Frame after frame: a product of the whole window would be as large as the window itself.
    mean = weights[:, 0, None] * maps[:, 0]
    for r in range(1, maps.shape[1]):
        mean = torch.addcmul(mean, weights[:, r, None], maps[:, r])
    return mean
