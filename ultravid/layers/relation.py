"""Relation between objects by appearance and geometry.

Sources: Hu et al., "Relation networks for object detection", CVPR 2018, equations 2 to 5; Deng et al., "Relation
distillation networks for video object detection", ICCV 2019. As UltraDet's published code (arXiv 2305.18060) and unlike these
papers: ReLU after each projection, and the geometric weight inside the exponent as log(g + 1e-6).

Legend: ``Q`` queries, ``K`` keys, ``D`` width of a token, ``h`` heads, ``G`` width of the geometric embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RelationLayer", "RelationModule", "geometry_embedding"]


def geometry_embedding(query_boxes: Tensor, key_boxes: Tensor, wavelengths: Tensor) -> Tensor:
    """Sines and cosines of the relative position and size of boxes.

    Args:
        query_boxes: ``(..., Q, 4)`` XYXY, pixels.
        key_boxes: ``(..., K, 4)``.
        wavelengths: ``(G / 8,)``.

    Returns:
        ``(..., Q, K, G)``: for each of log(|dx| / w_k + eps), log(|dy| / h_k + eps), log(w_q / w_k + eps) and
        log(h_q / h_k + eps), its sines, then its cosines; eps is 1e-4, sides are clamped below at 1e-4 px.
    """
    eps = 1e-4
    query_size = (query_boxes[..., 2:] - query_boxes[..., :2]).clamp(min=eps)[..., :, None, :]
    key_size = (key_boxes[..., 2:] - key_boxes[..., :2]).clamp(min=eps)[..., None, :, :]
    query_centre = ((query_boxes[..., :2] + query_boxes[..., 2:]) * 0.5)[..., :, None, :]
    key_centre = ((key_boxes[..., :2] + key_boxes[..., 2:]) * 0.5)[..., None, :, :]
    shift = torch.log((key_centre - query_centre).abs() / key_size + eps)
    ratio = torch.log(query_size / key_size + eps)
    phase = torch.cat((shift, ratio), dim=-1)[..., None] / wavelengths  # (..., Q, K, 4, G / 8)
    return torch.cat((phase.sin(), phase.cos()), dim=-1).flatten(-2)


class RelationLayer(nn.Module):
    """One layer of attention from queries to keys, with a residual: ``query + relation(query, key)``."""

    def __init__(self, dim: int, num_heads: int, geometry_dim: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}.")
        self.num_heads = num_heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_o = nn.Linear(dim, dim)
        self.geo_trans = nn.Linear(geometry_dim, num_heads)

    def forward(self, query: Tensor, key: Tensor, geometry: Tensor, mask: Tensor | None) -> Tensor:
        """Relate queries to keys.

        Args:
            query: ``(..., Q, D)``.
            key: ``(..., K, D)``.
            geometry: ``(..., Q, K, G)``.
            mask: ``(..., Q, K)`` bool, True where the query may use the key; None allows all.

        Returns:
            ``(..., Q, D)``.
        """
        heads = self.num_heads
        q, k, v = (
            F.relu(linear(x)).unflatten(-1, (heads, -1)).transpose(-3, -2)  # (..., h, N, D / h)
            for linear, x in ((self.linear_q, query), (self.linear_k, key), (self.linear_v, key))
        )
        weight = F.relu(self.geo_trans(geometry)).movedim(-1, -3)  # (..., h, Q, K)
        score = torch.log(weight + 1e-6) + (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        if mask is not None:
            score = score.masked_fill(~mask[..., None, :, :], -1e9)
        gathered = (score.softmax(dim=-1) @ v).transpose(-3, -2).flatten(-2)
        return query + F.relu(self.linear_o(gathered))


class RelationModule(nn.Module):
    """Relation layers over one set of tokens; the geometry is computed once for all of them."""

    div_mat: Tensor

    def __init__(self, *, dim: int = 256, num_heads: int = 8, num_layers: int = 2, geometry_dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        if geometry_dim % 8:
            raise ValueError(f"geometry_dim={geometry_dim} is not a multiple of 8.")
        exponents = torch.arange(geometry_dim // 8, dtype=torch.float32) * (8.0 / geometry_dim)
        self.register_buffer("div_mat", torch.pow(torch.tensor(1000.0), exponents) / 100.0)
        self.layers = nn.ModuleList(RelationLayer(dim, num_heads, geometry_dim) for _ in range(num_layers))

    def forward(self, tokens: Tensor, boxes: Tensor, mask: Tensor | None = None, num_last: int | None = None) -> Tensor:
        """Relate tokens to each other.

        Args:
            tokens: ``(..., K, D)``.
            boxes: ``(..., K, 4)`` XYXY, pixels.
            mask: ``(..., K, K)`` bool, True where the row's token may use the column's; None allows all.
            num_last: return only this many tokens, the last ones (of the current frame); the last layer computes no others.

        Returns:
            ``(..., K, D)``, or ``(..., num_last, D)``.
        """
        geometry = geometry_embedding(boxes, boxes, self.div_mat)
        for layer in self.layers[:-1]:
            tokens = layer(tokens, tokens, geometry, mask)
        first = 0 if num_last is None else tokens.shape[-2] - num_last
        mask = mask if mask is None else mask[..., first:, :]
        last: Tensor = self.layers[-1](tokens[..., first:, :], tokens, geometry[..., first:, :, :], mask)
        return last
