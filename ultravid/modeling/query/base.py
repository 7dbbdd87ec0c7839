"""The types that the parts of query-based detectors pass to each other.

Legend: ``B`` frames (or ``B, T`` in a clip), ``Q`` queries, ``C`` width of a query, ``h, w`` height and width of the feature map, ``n``
decoder layers, ``K`` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ultravid.modeling.types import State

__all__ = ["Cells", "FrameQueries", "NoQueryContext", "QueryContext", "QueryPredictions"]


class Cells(NamedTuple):
    """Which cells of feature maps show their image, in a batch whose smaller images were padded at their end.

    Without padding there is None in its place.

    Attributes:
        valid: ``(..., h, w)`` bool, False for cells of the padding.
        size: ``(..., 2)`` float32, (height, width) of the image in cells.
    """

    valid: Tensor
    size: Tensor

    @classmethod
    def of(cls, image_sizes: Tensor, stride: int, map_size: tuple[int, int]) -> Cells:
        """The cells of images.

        Args:
            image_sizes: ``(B, 2)`` (height, width) in pixels before the padding.
            stride: pixels from one cell to the next.
            map_size: (h, w) of the padded maps.
        """
        size = (image_sizes / stride).ceil()
        row, column = (torch.arange(n, device=size.device) for n in map_size)
        valid = (row[:, None] < size[:, 0, None, None]) & (column < size[:, 1, None, None])
        return cls(valid, size)

    @property
    def share(self) -> Tensor:
        """``(..., 2)``: the share of the map, in x and in y, that the image covers."""
        height, width = self.valid.shape[-2:]
        return torch.stack((self.size[..., 1] / width, self.size[..., 0] / height), dim=-1)

    def flatten(self, start: int, end: int) -> Cells:
        """The same cells with the leading axes ``start`` to ``end``, both included, merged to one, as by `torch.flatten`."""
        return Cells(self.valid.flatten(start, end), self.size.flatten(start, end))

    def unflatten(self, axis: int, sizes: torch.Size) -> Cells:
        """The same cells with the leading axis ``axis`` split into axes of ``sizes``, as by `torch.unflatten`."""
        return Cells(self.valid.unflatten(axis, sizes), self.size.unflatten(axis, sizes))


class QueryPredictions(NamedTuple):
    """Classes and boxes of queries.

    Attributes:
        logits: ``(..., Q, K)``, one sigmoid a class.
        boxes: ``(..., Q, 4)`` float32: (cx, cy, w, h) as shares of the image.
    """

    logits: Tensor
    boxes: Tensor

    def unflatten(self, axis: int, sizes: torch.Size) -> QueryPredictions:
        """The same predictions with the leading axis ``axis`` split into axes of ``sizes``, as by `torch.unflatten`."""
        return QueryPredictions(self.logits.unflatten(axis, sizes), self.boxes.unflatten(axis, sizes))

    def flatten(self, start: int, end: int) -> QueryPredictions:
        """The same predictions with the leading axes ``start`` to ``end``, both included, merged to one, as by `torch.flatten`."""
        return QueryPredictions(self.logits.flatten(start, end), self.boxes.flatten(start, end))

    def frame(self, index: int) -> QueryPredictions:
        """The predictions at place ``index`` of the first axis: of one frame, or of one clip."""
        return QueryPredictions(self.logits[index], self.boxes[index])

    def batched(self) -> QueryPredictions:
        """The same predictions with a new first axis of length 1."""
        return QueryPredictions(self.logits[None], self.boxes[None])


class FrameQueries(NamedTuple):
    """The queries of frames after the decoder, with leading axes ``(...)``: none in a stream, ``(B, T)`` in a clip.

    Attributes:
        content: ``(..., Q, C)``, of the last decoder layer.
        position: ``(Q, C)``, the same in all frames.
        memory: ``(..., h * w, C)``, the map that the decoder attended to, row by row.
        map_size: (h, w).
        cells: the cells of the maps; None without padding.
        predictions: the predictions of each decoder layer, in order; those before the last serve the auxiliary losses.
        organ: ``(...)`` int64, place in `VideoDetector.organs`, for layers with a classifier per organ.
    """

    content: Tensor
    position: Tensor
    memory: Tensor
    map_size: tuple[int, int]
    cells: Cells | None
    predictions: tuple[QueryPredictions, ...]
    organ: Tensor | None

    @property
    def reference(self) -> Tensor:
        """``(..., Q, 4)``, the last refined boxes: (cx, cy, w, h) as shares of the image."""
        return self.predictions[-1].boxes

    def in_clips(self, by_clip: torch.Size) -> FrameQueries:
        """The queries with the leading axis ``(B * T,)`` split into ``by_clip``, ``(B, T)``."""
        return self._replace(
            content=self.content.unflatten(0, by_clip),
            memory=self.memory.unflatten(0, by_clip),
            cells=None if self.cells is None else self.cells.unflatten(0, by_clip),
            predictions=tuple(p.unflatten(0, by_clip) for p in self.predictions),
            organ=None if self.organ is None else self.organ.unflatten(0, by_clip),
        )

    def frame(self, index: int) -> FrameQueries:
        """The queries of frame ``index`` of ``(B,)``, without the leading axis and without ``cells``: for batches without padding."""
        return self._replace(
            content=self.content[index],
            memory=self.memory[index],
            cells=None,
            predictions=tuple(p.frame(index) for p in self.predictions),
            organ=None if self.organ is None else self.organ[index],
        )


class QueryContext(nn.Module, ABC):
    """Turns the queries of frames into predictions that include information from other frames."""

    relates_frames = True
    """A frame's predictions depend on other frames; otherwise frames that carry no loss need not be computed."""

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """The state before the first frame of a stream; ``{}`` for a part without memory.

        Args:
            image_size: (height, width) of the stream's images in pixels.
            device: device of the state; None: the CPU.
        """
        del image_size, device
        return {}

    @abstractmethod
    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        """All frames of clips at once.

        Args:
            queries: with leading axes ``(B, T)``.
            frame_valid: ``(B, T)`` bool, False for frames that pad a short clip; they must not influence other frames.

        Returns:
            Predictions ``(B, T, Q, ...)``, the final ones last; those before serve the auxiliary losses.
        """

    @abstractmethod
    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        """The next frame of a stream.

        Args:
            queries: without leading axes.
            state: from `initial_state` or the previous step; it must not be written to.

        Returns:
            The final predictions ``(Q, ...)``, and the next state, with the same keys, shapes and dtypes.
        """


class NoQueryContext(QueryContext):
    """No relation between frames: the predictions of the decoder are returned unchanged."""

    relates_frames = False

    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        """Return ``queries.predictions``: those of all decoder layers."""
        del frame_valid
        return queries.predictions

    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        """Return the predictions of the last decoder layer, and ``state`` unchanged."""
        return queries.predictions[-1], state
