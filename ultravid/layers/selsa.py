"""Sequence-level semantics aggregation: attention between objects of many frames, only by appearance.

Source: Wu et al., "Sequence level semantics aggregation for video object detection", ICCV 2019. As UltraDet's published code
(arXiv 2305.18060) and unlike the paper: learned projections, and a linear map of the token in place of the identity.

Legend: ``Q`` queries, ``K`` keys, ``D`` width of a token, ``L`` layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultravid.layers.relation import MASKED, Projections, TokenRelation, TokenRelationLayer, attention

__all__ = ["SELSALayer", "SELSAModule"]


class SELSALayer(TokenRelationLayer):
    """``linear(x) + linear_out(softmax(q.k / sqrt(D)) v)``, one head, no activation.

    Args:
        dim: the width of the tokens, ``D``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)

    def project_query(self, tokens: Tensor) -> Tensor:
        """The queries ``(..., N, D)`` of ``tokens`` ``(..., N, D)``."""
        query: Tensor = self.linear_q(tokens)
        return query

    def project_key(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and the values, ``(..., N, D)`` each, of ``tokens`` ``(..., N, D)``."""
        return self.linear_k(tokens), self.linear_v(tokens)

    def relate(
        self, tokens: Tensor, projected: Projections, log_weight: Tensor, has_key: Tensor | None = None
    ) -> Tensor:
        """As `TokenRelationLayer.relate`: a linear layer of ``tokens`` plus one of what their queries gather."""
        related: Tensor = self.linear(tokens) + self.linear_out(attention(*projected, log_weight, 1, has_key))
        return related


class SELSAModule(TokenRelation):
    """Layers that take the place of a `RelationModule` in a token mixer; they do not depend on the boxes.

    Args:
        dim: ``D``.
        num_layers: ``L``.
    """

    has_geometry = False
    num_heads = 1

    def __init__(self, *, dim: int = 256, num_layers: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(SELSALayer(dim) for _ in range(num_layers))

    def log_weights(
        self, query_boxes: Tensor, key_boxes: Tensor, mask: Tensor | None = None, layers: slice = slice(None)
    ) -> Tensor:
        """As `TokenRelation.log_weights`: 0, and `MASKED` where the mask is False; ``(L, ..., 1, Q, K)``, with the ``Q`` of the mask."""
        if mask is None:
            mask = key_boxes.new_ones((*key_boxes.shape[:-2], 1, key_boxes.shape[-2]), dtype=torch.bool)
        del query_boxes
        log_weight = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill(~mask, MASKED)
        return log_weight.unsqueeze(-3).expand(len(self.layers[layers]), *mask.shape[:-2], 1, *mask.shape[-2:])
