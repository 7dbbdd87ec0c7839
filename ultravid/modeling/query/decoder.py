"""The decoder: classes and boxes from queries and a feature map, refined from layer to layer.

Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1 and appendix A.4 ("iterative bounding box refinement"), on one level.

Legend: ``B`` frames, ``Q`` queries, ``C`` width of a query, ``h, w`` height and width of the map, ``K`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers.attention import Attention
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.query.base import Cells, FrameQueries, QueryPredictions
from ultravid.modeling.query.deformable import DeformableAttention
from ultravid.modeling.query.encoder import FeedForward
from ultravid.utils.limits import Positive, Share

__all__ = ["BoxHead", "DecoderLayer", "QueryDecoder", "class_head", "logit", "refine"]


class BoxHead(nn.Module):
    """Three linear layers to four numbers, that are added to the logits of a reference.

    Args:
        dim: width of a query.
        initial_size: logit of width and height at first; the center does not move at first.
    """

    def __init__(self, dim: int, initial_size: float = 0.0) -> None:
        super().__init__()
        last = nn.Linear(dim, 4)
        self.layers = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), last))
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, initial_size, initial_size]))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., 4)``."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def class_head(dim: int, num_classes: int, prior: float, organ_classes: Mapping[str, int] | None) -> nn.Module:
    """A linear layer whose sigmoid is about ``prior`` at first, which keeps the focal loss of the many empty queries small.

    Args:
        dim: width of a query.
        num_classes: number of classes.
        prior: between 0 and 1.
        organ_classes: as of `organ_classifier`; call the layer through `classify`.
    """
    head = organ_classifier(lambda: nn.Linear(dim, num_classes), organ_classes, num_classes)
    assert isinstance(head.bias, Tensor)
    nn.init.constant_(head.bias, -math.log((1.0 - prior) / prior))
    return head


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid; x and 1 - x are clamped below at 1e-5."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=1e-5) / (1.0 - x).clamp(min=1e-5))


def refine(deltas: Tensor, reference: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` in float32: the deltas' sigmoid, once the logits of the reference ``(..., 2)`` or ``(..., 4)`` are added."""
    start = logit(reference.float())
    if start.shape[-1] == 2:
        start = F.pad(start, (0, 2))
    return (deltas.float() + start).sigmoid()


class DecoderLayer(nn.Module):
    """Attention among the queries of a frame, deformable attention to its map, a feed-forward network.

    Args:
        dim: ``C``.
        num_heads: number of heads of both attentions.
        num_points: number of sampling points per head.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability during training.
    """

    def __init__(
        self,
        *,
        dim: Positive,
        num_heads: Positive = 8,
        num_points: Positive = 4,
        ffn_dim: Positive = 512,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(dim=dim, num_heads=num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(dim=dim, num_heads=num_heads, num_points=num_points)
        self.cross_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        map_size: tuple[int, int],
        cells: Cells | None,
    ) -> Tensor:
        """One layer.

        Args:
            x: ``(B, Q, C)``.
            position: ``(Q, C)``.
            reference: ``(B, Q, 2)`` (x, y) or ``(B, Q, 4)`` (cx, cy, w, h) as shares of the image.
            memory: ``(B, h * w, C)``.
            map_size: (h, w).
            cells: the cells of each image in a padded batch.

        Returns:
            ``(B, Q, C)``.
        """
        place = x + position
        x = self.self_norm(x + self.dropout(self.self_attention(place, place, x)))
        valid = None
        if cells is not None:
            reference = reference * cells.share.repeat(1, reference.shape[-1] // 2)[:, None]
            valid = cells.valid.flatten(1)
        attended = self.cross_attention(x + position, reference, memory, map_size, valid)
        out: Tensor = self.ffn(self.cross_norm(x + self.dropout(attended)))
        return out


class QueryDecoder(nn.Module):
    """Learned queries, decoder layers, and for each layer a head for classes and one for boxes.

    Args:
        dim: ``C``.
        num_queries: ``Q``.
        num_layers: number of layers.
        num_heads: number of attention heads.
        num_points: number of sampling points per head.
        ffn_dim: hidden width of the feed-forward networks.
        num_classes: ``K``.
        prior: probability of each class at first.
        dropout: dropout probability during training.
        organ_classes: number of classes of each organ, by its name, for one class head per organ; None: one for all.
    """

    def __init__(
        self,
        *,
        dim: Positive = 256,
        num_queries: Positive = 16,
        num_layers: Positive = 4,
        num_heads: Positive = 8,
        num_points: Positive = 4,
        ffn_dim: Positive = 512,
        num_classes: Positive = 1,
        prior: Share = 0.01,
        dropout: Share = 0.0,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_queries = num_queries
        self.num_classes = num_classes
        self.query_embed = nn.Embedding(num_queries, 2 * dim)  # position, then initial content
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        self.layers = nn.ModuleList(
            DecoderLayer(dim=dim, num_heads=num_heads, num_points=num_points, ffn_dim=ffn_dim, dropout=dropout)
            for _ in range(num_layers)
        )
        self.class_heads = nn.ModuleList(class_head(dim, num_classes, prior, organ_classes) for _ in range(num_layers))
        self.box_heads = nn.ModuleList(BoxHead(dim, -2.0 if i == 0 else 0.0) for i in range(num_layers))

    def forward(self, memory_map: Tensor, cells: Cells | None = None, organ: Tensor | None = None) -> FrameQueries:
        """The queries of ``B`` frames after all layers.

        Args:
            memory_map: ``(B, C, h, w)``.
            cells: the cells of each image in a padded batch.
            organ: ``(B,)`` int64, for layers with a classifier per organ.
        """
        map_size = (memory_map.shape[-2], memory_map.shape[-1])
        memory = memory_map.flatten(2).transpose(1, 2)
        position, content = self.query_embed.weight.chunk(2, dim=-1)
        x = content.expand(len(memory), *content.shape)
        reference = self.reference_points(position).float().sigmoid().expand(len(memory), -1, -1)
        predictions = []
        for layer, to_classes, to_box in zip(self.layers, self.class_heads, self.box_heads, strict=True):
            x = layer(x, position, reference, memory, map_size, cells)
            boxes = refine(to_box(x), reference)
            predictions.append(QueryPredictions(classify(to_classes, x, organ), boxes))
            reference = boxes.detach()  # each layer learns its own correction (appendix A.4)
        return FrameQueries(x, position, memory, map_size, cells, tuple(predictions), organ)
