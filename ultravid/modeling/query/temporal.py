"""Queries that attend to the queries of other frames, then again to the map of their own frame (TransVOD).

Source: He et al., "End-to-end video object detection with spatial-temporal transformers" (TransVOD), ACM MM 2021, sections 3.3 and 3.4.
As in UltraDet's published code (arXiv 2305.18060), a query attends only to the queries of the same number in other frames.

Legend: ``B`` clips, ``T`` frames of a clip, ``R`` frames of the window, ``Q`` queries, ``C`` width of a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ultravid.layers.attention import Attention
from ultravid.modeling.frame_window import FrameWindow, temporal_mask
from ultravid.modeling.organs import classify
from ultravid.modeling.query.base import FrameQueries, QueryContext, QueryPredictions
from ultravid.modeling.query.decoder import BoxHead, DecoderLayer, class_head, refine
from ultravid.modeling.query.encoder import FeedForward
from ultravid.modeling.types import State
from ultravid.utils.limits import NotNegative, Positive, Share

__all__ = ["TemporalQueries"]


class TemporalLayer(nn.Module):
    """Attention among the queries of a frame, attention of each query to itself in other frames, a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim=dim, num_heads=num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim=dim, num_heads=num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def within_frame(self, x: Tensor, position: Tensor) -> Tensor:
        """``(..., Q, C)``: what the other frames see of these frames' queries in this layer."""
        place = x + position
        out: Tensor = self.self_norm(x + self.dropout(self.self_attention(place, place, x)))
        return out

    def across_frames(self, x: Tensor, frames: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """Queries of some frames relate to those of all.

        Args:
            x: ``(..., t, Q, C)`` of `within_frame`.
            frames: ``(..., T, Q, C)`` of `within_frame`.
            position: ``(Q, C)``.
            mask: bool, broadcast to ``(..., t, T)``: True where a frame may use another.

        Returns:
            ``(..., t, Q, C)``.
        """
        query, key, value = ((x + position), (frames + position), frames)
        query, key, value = (z.transpose(-3, -2) for z in (query, key, value))  # (..., Q, frames, C)
        related = self.cross_attention(query, key, value, mask[..., None, :, :]).transpose(-3, -2)
        out: Tensor = self.ffn(self.cross_norm(x + self.dropout(related)))
        return out


class TemporalQueries(QueryContext):
    """TransVOD's temporal query encoder and temporal decoder, with separate class and box heads.

    Args:
        dim: ``C``.
        num_queries: ``Q``, that of the decoder before.
        num_layers: number of layers of the temporal query encoder.
        num_decoder_layers: number of layers of the temporal decoder, whose references are the boxes of the decoder before.
        num_heads: number of attention heads.
        num_points: number of sampling points per head.
        ffn_dim: hidden width of the feed-forward networks.
        num_classes: that of the decoder before.
        prior: probability of each class at first.
        context_frames: number of earlier frames that a frame sees.
        context_stride: frames from one context frame to the next in a stream; sample training clips with the same stride.
        causal: a frame's queries see no later frame, in training and in a stream, which then keeps what each layer made of the earlier
            frames and computes only the newest. Without it all frames of a clip or window see each other, in training whatever
            ``context_frames`` is, as in the published model; a stream never uses a later frame.
        dropout: dropout probability during training.
        organ_classes: as of `QueryDecoder`.
    """

    def __init__(
        self,
        *,
        dim: Positive = 256,
        num_queries: Positive = 16,
        num_layers: Positive = 2,
        num_decoder_layers: Positive = 1,
        num_heads: Positive = 8,
        num_points: Positive = 4,
        ffn_dim: Positive = 512,
        num_classes: Positive = 1,
        prior: Share = 0.01,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        causal: bool = False,
        dropout: Share = 0.0,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_queries = num_queries
        self.num_classes = num_classes
        self.context_frames = context_frames
        self.causal = causal
        self.window = FrameWindow(context_frames + 1, context_stride)
        self.layers = nn.ModuleList(TemporalLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.decoder = nn.ModuleList(
            DecoderLayer(dim=dim, num_heads=num_heads, num_points=num_points, ffn_dim=ffn_dim, dropout=dropout)
            for _ in range(num_decoder_layers)
        )
        self.class_head = class_head(dim, num_classes, prior, organ_classes)
        self.box_head = BoxHead(dim)

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """As `QueryContext.initial_state`.

        It has rings of the queries of the window's frames: as the decoder gave them, or, with ``causal``, as each layer passes them on to
        later frames.
        """
        del image_size
        shape = (self.num_queries, self.dim)
        names = [f"layer_{i}" for i in range(len(self.layers))] if self.causal else ["decoder"]
        return {name: self.window.initial_state(device, queries=(shape, torch.float32)) for name in names}

    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        """As `QueryContext.clip`: the predictions of all layers of the decoder before, then the temporal ones."""
        x, position = queries.content, queries.position
        length = x.shape[1]
        see = temporal_mask(length, self.context_frames, self.causal, x.device) & frame_valid[:, None, :]
        see = see | torch.eye(
            length, dtype=torch.bool, device=x.device
        )  # a frame of padding sees itself: no row is empty
        for layer in _layers(self.layers):
            x = layer.within_frame(x, position)
            x = layer.across_frames(x, x, position, see)
        by_clip = x.shape[:2]
        cells = None if queries.cells is None else queries.cells.flatten(0, 1)
        final = self._predict(
            queries._replace(
                content=x.flatten(0, 1),
                memory=queries.memory.flatten(0, 1),
                cells=cells,
                organ=None if queries.organ is None else queries.organ.flatten(),
            ),
            queries.reference.flatten(0, 1),
        )
        return (*queries.predictions, final.unflatten(0, by_clip))

    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        """As `QueryContext.step`: the temporal predictions of the newest frame."""
        x, next_state = (self._step_causal if self.causal else self._step_window)(queries, state)
        frame = queries._replace(
            content=x,
            memory=queries.memory[None],
            organ=None if queries.organ is None else queries.organ[None],
        )
        predictions = self._predict(frame, queries.reference[None])
        return predictions.frame(0), next_state

    def _step_window(self, queries: FrameQueries, state: State) -> tuple[Tensor, State]:
        """``(1, Q, C)`` of the newest frame: all frames of the window relate to each other, but in the last layer."""
        position = queries.position
        ring = self.window.push(state["decoder"], queries=queries.content)
        window = self.window.window(ring)
        x, mask = window["queries"].to(queries.content.dtype), window["valid"][None]
        for layer in _layers(self.layers)[:-1]:
            x = layer.within_frame(x, position)
            x = layer.across_frames(x, x, position, mask)
        last = _layers(self.layers)[-1]
        x = last.within_frame(x, position)
        return last.across_frames(x[-1:], x, position, mask), {"decoder": ring}

    def _step_causal(self, queries: FrameQueries, state: State) -> tuple[Tensor, State]:
        """``(1, Q, C)`` of the newest frame: what a layer shows of an earlier frame does not change any more, so it is kept."""
        x, next_state = queries.content[None], {}
        for i, layer in enumerate(_layers(self.layers)):
            x = layer.within_frame(x, queries.position)
            ring = self.window.push(state[f"layer_{i}"], queries=x[0])
            window = self.window.window(ring)
            x = layer.across_frames(x, window["queries"].to(x.dtype), queries.position, window["valid"][None])
            next_state[f"layer_{i}"] = ring
        return x, next_state

    def _predict(self, frames: FrameQueries, reference: Tensor) -> QueryPredictions:
        """Predictions of ``B`` frames from their related queries, their maps and the boxes of the decoder before."""
        x, reference = frames.content, reference.detach()
        for layer in self.decoder:
            x = layer(x, frames.position, reference, frames.memory, frames.map_size, frames.cells)
        return QueryPredictions(classify(self.class_head, x, frames.organ), refine(self.box_head(x), reference))


def _layers(layers: nn.ModuleList) -> Sequence[TemporalLayer]:
    return cast("Sequence[TemporalLayer]", layers)
