"""Relation between objects by appearance and geometry.

Sources: Hu et al., "Relation networks for object detection", CVPR 2018, equations 2 to 5; Deng et al., "Relation
distillation networks for video object detection", ICCV 2019. As UltraDet's published code (arXiv 2305.18060) and unlike these
papers: ReLU after each projection, and the geometric weight inside the exponent as log(g + 1e-6).

Legend: ``Q`` queries, ``K`` keys, ``D`` width of a token, ``h`` heads, ``G`` width of the geometric embedding, ``L`` layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "MASKED",
    "Projections",
    "RelationLayer",
    "RelationModule",
    "TokenRelation",
    "TokenRelationLayer",
    "attention",
    "geometry_embedding",
]

MASKED = -1e9
"""The logarithm of the weight of a key that may not be used: its softmax is 0 in float32, and a row of them stays finite."""

_EPS = 1e-4
# Sines that are computed at once, and as many cosines: those of 4,096 pairs of the full-size models. On a CPU, blocks of this size stay in
# its cache, and 65,536 pairs take half the time that they take at once; a GPU is faster with fewer, larger ones. Memory stays bounded for any
# number of clips.
_BLOCK = 1 << 19
_BLOCK_CUDA = 1 << 24


class Projections(NamedTuple):
    """What a layer makes of tokens before it relates them, ``(..., N, D)`` each."""

    query: Tensor
    key: Tensor
    value: Tensor


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
    phase = _phases(query_boxes, key_boxes, wavelengths)  # (..., 4, G / 8, Q, K)
    return torch.cat((phase.sin(), phase.cos()), dim=-3).flatten(-4, -3).movedim(-3, -1)


def _phases(query_boxes: Tensor, key_boxes: Tensor, wavelengths: Tensor) -> Tensor:
    """``(..., 4, G / 8, Q, K)``: the four relative coordinates, divided by each wavelength."""
    query_size = (query_boxes[..., 2:] - query_boxes[..., :2]).clamp(min=_EPS).mT[..., :, :, None]  # (..., 2, Q, 1)
    key_size = (key_boxes[..., 2:] - key_boxes[..., :2]).clamp(min=_EPS).mT[..., :, None, :]
    query_center = ((query_boxes[..., :2] + query_boxes[..., 2:]) * 0.5).mT[..., :, :, None]
    key_center = ((key_boxes[..., :2] + key_boxes[..., 2:]) * 0.5).mT[..., :, None, :]
    shift = (key_center - query_center).abs() / key_size
    relative = torch.log(torch.cat((shift, query_size / key_size), dim=-3) + _EPS)
    return relative[..., None, :, :] / wavelengths[:, None, None]


def _pair_logits(query_boxes: Tensor, key_boxes: Tensor, wavelengths: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``(..., M, Q, K)``: a linear map ``(M, G)`` of the geometric embedding, block by block of queries."""
    of_sine, of_cosine = (w.flatten(1) for w in weight.unflatten(1, (4, 2, -1)).unbind(2))  # (M, G / 2) each
    blocks = []
    for rows in query_boxes.split(_row_block(key_boxes, wavelengths), dim=-2):
        phase = _phases(rows, key_boxes, wavelengths).flatten(-2).flatten(-3, -2)  # (..., G / 2, rows * K)
        logits = of_sine @ phase.sin() + of_cosine @ phase.cos() + bias[:, None]
        blocks.append(logits.unflatten(-1, (rows.shape[-2], key_boxes.shape[-2])))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def _row_block(key_boxes: Tensor, wavelengths: Tensor) -> int:
    """Number of queries in a block."""
    block = _BLOCK_CUDA if key_boxes.is_cuda else _BLOCK
    return max(1, block // max(1, key_boxes.numel() * len(wavelengths)))


class _PairLogits(torch.autograd.Function):
    """`_pair_logits` for training: the embedding is computed again for the gradient of the map, not kept; boxes have no gradient."""

    @staticmethod
    def forward(
        ctx: Any, query_boxes: Tensor, key_boxes: Tensor, wavelengths: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(query_boxes, key_boxes, wavelengths)
        return _pair_logits(query_boxes, key_boxes, wavelengths, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor, Tensor]:
        query_boxes, key_boxes, wavelengths = ctx.saved_tensors
        grad = grads[0]
        size = _row_block(key_boxes, wavelengths)
        num_outputs, width = grad.shape[-3], 4 * len(wavelengths)
        of_sine, of_cosine = (grad.new_zeros(num_outputs, width) for _ in range(2))
        for rows, grad_rows in zip(query_boxes.split(size, dim=-2), grad.split(size, dim=-2), strict=True):
            phase = _phases(rows, key_boxes, wavelengths).flatten(-2).flatten(-3, -2)
            grad_pairs = grad_rows.flatten(-2)
            of_sine += (grad_pairs @ phase.sin().mT).reshape(-1, num_outputs, width).sum(0)
            of_cosine += (grad_pairs @ phase.cos().mT).reshape(-1, num_outputs, width).sum(0)
        both = torch.stack((of_sine.unflatten(1, (4, -1)), of_cosine.unflatten(1, (4, -1))), dim=2)
        grad_bias = grad.movedim(-3, 0).flatten(1).sum(1)
        return None, None, None, both.flatten(1), grad_bias


def attention(
    query: Tensor, key: Tensor, value: Tensor, log_weight: Tensor, num_heads: int, has_key: Tensor | None = None
) -> Tensor:
    """Softmax over the keys of ``log_weight + q.k / sqrt(D / h)``, times the values.

    Args:
        query: ``(..., Q, D)``; heads are consecutive parts of ``D``.
        key: ``(..., K, D)``.
        value: ``(..., K, D)``.
        log_weight: broadcast to ``(..., h, Q, K)``; `MASKED` where the query may not use the key.
        num_heads: ``h``.
        has_key: ``(..., Q)`` bool, False for a query that may use no key and gathers zero; None if each has one.

    Returns:
        ``(..., Q, D)``.
    """
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(-3, -2) for x in (query, key, value))  # (..., h, N, D / h)
    score = log_weight + (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.mT
    gathered = (score.softmax(dim=-1).to(v.dtype) @ v).transpose(-3, -2).flatten(-2)
    return gathered if has_key is None else torch.where(has_key[..., None], gathered, 0.0)


class TokenRelationLayer(nn.Module, ABC):
    """One layer of attention from queries to keys."""

    @abstractmethod
    def project_query(self, tokens: Tensor) -> Tensor:
        """The queries ``(..., N, D)`` of ``tokens`` ``(..., N, D)``."""

    @abstractmethod
    def project_key(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and the values, ``(..., N, D)`` each, of ``tokens`` ``(..., N, D)``."""

    @abstractmethod
    def relate(
        self, tokens: Tensor, projected: Projections, log_weight: Tensor, has_key: Tensor | None = None
    ) -> Tensor:
        """Add to tokens what their queries gather from keys by `attention`.

        Args:
            tokens: ``(..., Q, D)``.
            projected: the queries ``(..., Q, D)`` of these tokens, and keys and values ``(..., K, D)``.
            log_weight: ``(..., h, Q, K)`` of `TokenRelation.log_weights`.
            has_key: as of `attention`.

        Returns:
            ``(..., Q, D)``.
        """

    def project(self, tokens: Tensor) -> Projections:
        """Queries, keys and values of tokens ``(..., N, D)``; a stream keeps those of earlier frames."""
        return Projections(self.project_query(tokens), *self.project_key(tokens))

    def forward(self, query: Tensor, key: Tensor, log_weight: Tensor, has_key: Tensor | None = None) -> Tensor:
        """Relate queries to keys.

        Args:
            query: ``(..., Q, D)``.
            key: ``(..., K, D)``.
            log_weight: ``(..., h, Q, K)`` of `TokenRelation.log_weights`.
            has_key: as of `attention`.

        Returns:
            ``(..., Q, D)``.
        """
        return self.relate(query, Projections(self.project_query(query), *self.project_key(key)), log_weight, has_key)


class TokenRelation(nn.Module, ABC):
    """Layers of attention over one set of tokens.

    Attributes:
        layers: each a `TokenRelationLayer`.
        dim: ``D``.
        num_heads: ``h``.
        has_geometry: `log_weights` depends on the boxes.
    """

    layers: nn.ModuleList
    dim: int
    num_heads: int
    has_geometry: bool

    @abstractmethod
    def log_weights(
        self, query_boxes: Tensor, key_boxes: Tensor, mask: Tensor | None = None, layers: slice = slice(None)
    ) -> Tensor:
        """What is added to the logits of the attention, in float32. It depends only on the boxes, so a stream keeps it.

        Args:
            query_boxes: ``(..., Q, 4)`` XYXY, pixels.
            key_boxes: ``(..., K, 4)``.
            mask: broadcast to ``(..., Q, K)`` bool, True where the query may use the key; None allows all.
            layers: the layers, ``L`` of them, by their place.

        Returns:
            ``(L, ..., h, Q, K)``, `MASKED` where the mask is False; without geometry, ``Q`` is the mask's, which may be 1.
        """

    def stack(self) -> list[TokenRelationLayer]:
        """The layers in order."""
        return list(cast("Iterable[TokenRelationLayer]", self.layers))

    def forward(self, tokens: Tensor, boxes: Tensor, mask: Tensor | None = None, num_last: int | None = None) -> Tensor:
        """Relate tokens to each other.

        Args:
            tokens: ``(..., K, D)``.
            boxes: ``(..., K, 4)`` XYXY, pixels.
            mask: broadcast to ``(..., K, K)`` bool, True where the row's token may use the column's; None allows all.
            num_last: return only this many tokens, the last ones (of the current frame).

        Returns:
            ``(..., K, D)``, or ``(..., num_last, D)``.
        """
        has_key = None if mask is None else mask.any(dim=-1)
        for layer, log_weight in zip(self.stack(), self.log_weights(boxes, boxes, mask), strict=True):
            tokens = layer(tokens, tokens, log_weight, has_key)
        return tokens if num_last is None else tokens[..., -num_last:, :]


class RelationLayer(TokenRelationLayer):
    """With a residual: ``query + relation(query, key)``.

    Args:
        dim: the width of the tokens, ``D``.
        num_heads: the number of attention heads.
        geometry_dim: the width of the embedding of the boxes' relative geometry.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

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

    def project_query(self, tokens: Tensor) -> Tensor:
        """The queries ``(..., N, D)`` of ``tokens`` ``(..., N, D)``, after ReLU."""
        return F.relu(self.linear_q(tokens))

    def project_key(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and the values, ``(..., N, D)`` each, of ``tokens`` ``(..., N, D)``, after ReLU."""
        return F.relu(self.linear_k(tokens)), F.relu(self.linear_v(tokens))

    def relate(
        self, tokens: Tensor, projected: Projections, log_weight: Tensor, has_key: Tensor | None = None
    ) -> Tensor:
        """As `TokenRelationLayer.relate`: ``tokens`` plus what their queries gather, after a linear layer and ReLU."""
        return tokens + F.relu(self.linear_o(attention(*projected, log_weight, self.num_heads, has_key)))


class RelationModule(TokenRelation):
    """Relation layers over one set of tokens; the geometry is computed once for all of them.

    Args:
        dim: ``D``.
        num_heads: ``h``.
        num_layers: ``L``.
        geometry_dim: ``G``, a multiple of 8.
    """

    div_mat: Tensor
    has_geometry = True

    def __init__(self, *, dim: int = 256, num_heads: int = 8, num_layers: int = 2, geometry_dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        if geometry_dim % 8:
            raise ValueError(f"geometry_dim={geometry_dim} is not a multiple of 8.")
        self.num_heads = num_heads
        exponents = torch.arange(geometry_dim // 8, dtype=torch.float32) * (8.0 / geometry_dim)
        self.register_buffer("div_mat", torch.pow(torch.tensor(1000.0), exponents) / 100.0)
        self.layers = nn.ModuleList(RelationLayer(dim, num_heads, geometry_dim) for _ in range(num_layers))

    def log_weights(
        self, query_boxes: Tensor, key_boxes: Tensor, mask: Tensor | None = None, layers: slice = slice(None)
    ) -> Tensor:
        """As `TokenRelation.log_weights`: log(ReLU(geo_trans(embedding)) + 1e-6) of each pair of boxes, ``(L, ..., h, Q, K)``."""
        chosen = [cast("RelationLayer", layer).geo_trans for layer in self.stack()[layers]]
        with torch.autocast(query_boxes.device.type, enabled=False):
            # log(g + 1e-6) of values near 0 is steep: half precision moves scores by 1e-2.
            weight, bias = torch.cat([t.weight for t in chosen]).float(), torch.cat([t.bias for t in chosen]).float()
            arguments = (query_boxes.float(), key_boxes.float(), self.div_mat.float(), weight, bias)
            with_gradient = torch.is_grad_enabled() and weight.requires_grad
            logits: Tensor = _PairLogits.apply(*arguments) if with_gradient else _pair_logits(*arguments)
            log_weight = torch.log(F.relu(logits) + 1e-6).unflatten(-3, (len(chosen), -1)).movedim(-4, 0)
        return log_weight if mask is None else log_weight.masked_fill(~mask[..., None, :, :], MASKED)
