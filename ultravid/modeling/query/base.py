"""What query-based detectors pass between their parts.

Legend: ``B`` frames (or ``B, T`` in a clip), ``Q`` queries, ``C`` width of a query, ``h, w`` height and width of the feature map, ``n``
decoder layers, ``K`` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ultravid.modeling.types import State

__all__ = ["FrameQueries", "NoQueryContext", "QueryContext", "QueryPredictions"]


class QueryPredictions(NamedTuple):
    """Classes and boxes of queries.

    Attributes:
        logits: ``(..., Q, K)``, one sigmoid a class.
        boxes: ``(..., Q, 4)``: (cx, cy, w, h) as shares of the image.
    """

    logits: Tensor
    boxes: Tensor


class FrameQueries(NamedTuple):
    """The queries of frames after the decoder, with leading axes ``(...)``: none in a stream, ``(B, T)`` in a clip.

    Attributes:
        content: ``(..., Q, C)``, of the last decoder layer.
        position: ``(..., Q, C)``.
        reference: ``(..., Q, 4)``, the last refined boxes: (cx, cy, w, h) as shares of the image.
        memory: ``(..., h * w, C)``, the map that the decoder looked at, row by row.
        predictions: of each decoder layer, in order; those before the last serve the auxiliary losses.
        map_size: (h, w).
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    memory: Tensor
    predictions: tuple[QueryPredictions, ...]
    map_size: tuple[int, int]


class QueryContext(nn.Module, ABC):
    """From the queries of frames to predictions that know of other frames."""

    def initial_state(self, image_size: tuple[int, int]) -> State:
        """The state before the first frame of a stream, on the device of the part; image_size is (height, width) in pixels."""
        del image_size
        return {}

    @abstractmethod
    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        """Predictions ``(B, T, Q, ...)``, the final ones last; those before it serve auxiliary losses.

        Args:
            queries: ``(B, T, Q, ...)``.
            frame_valid: ``(B, T)`` bool, False for frames that pad a short clip; they must reach no other frame.
        """

    @abstractmethod
    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        """``(Q, ...)`` of the next frame of a stream, and the next state."""


class NoQueryContext(QueryContext):
    """Each frame by itself: the predictions of the decoder."""

    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        """Those of all decoder layers."""
        del frame_valid
        return queries.predictions

    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        """Those of the last decoder layer."""
        return queries.predictions[-1], state
