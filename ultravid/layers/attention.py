"""Attention of several heads (Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.2).

Legend: ``Q`` queries, ``K`` keys, ``C`` width of a token, ``M`` heads, ``d`` = C / M width of a head, ``P`` positions of a map,
``T`` frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.utils.limits import Positive

__all__ = ["Attention"]


class Attention(nn.Module):
    """Scaled dot-product attention, with the weights and their names of `torch.nn.MultiheadAttention`.

    Besides the usual form it has two that cost less where a map is related to the same map of other frames.

    Args:
        dim: ``C``.
        num_heads: ``M``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, *, dim: Positive, num_heads: Positive = 8) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}.")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))  # of queries, keys and values, in this order
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from queries to keys.

        Args:
            query: ``(..., Q, C)``.
            key: ``(..., K, C)``.
            value: ``(..., K, C)``.
            mask: bool, broadcast to ``(..., Q, K)``: True where the query may use the key; at least one key of each query.

        Returns:
            ``(..., Q, C)``.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (..., M, N, d)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if mask is None else mask[..., None, :, :]
        gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(gathered.transpose(-3, -2).flatten(-2))
        return out

    def single_key(self, value: Tensor) -> Tensor:
        """``(..., C)``: what every query gets from a single key, whose weight is 1: the two projections of its value."""
        out_weight, dim = self.out_proj.weight, self.out_proj.weight.shape[0]
        value_weight, value_bias = self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :]
        return F.linear(value, out_weight @ value_weight, F.linear(value_bias, out_weight, self.out_proj.bias))

    def across_frames(self, query: Tensor, frames: Tensor, frame_valid: Tensor) -> Tensor:
        """Attend, at each position of a map by itself, to that position in several frames, which are keys and values.

        No key or value is projected: a query is projected back to the frames' own coordinates, and the gathered frames are
        projected afterwards. That costs as much as the projection of one frame, whatever the number of frames, and nothing but
        the frames themselves must be kept for the next one. The keys' bias adds the same to all scores of a query, so it cancels.

        Args:
            query: ``(P, C)``.
            frames: ``(T, P, C)``.
            frame_valid: ``(T,)`` bool, at least one True; the others get no weight.

        Returns:
            ``(P, C)``.
        """
        dim, heads = query.shape[-1], self.num_heads
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, _, value_bias = self.in_proj_bias.chunk(3)
        q = F.linear(query * (dim // heads) ** -0.5, query_weight, query_bias * (dim // heads) ** -0.5)
        q = torch.einsum("pmd,mdc->pmc", q.unflatten(-1, (heads, -1)), key_weight.unflatten(0, (heads, -1)))
        keys = frames.transpose(0, 1)  # (P, T, C)
        scores = q.to(keys.dtype) @ keys.transpose(1, 2)
        weights = scores.masked_fill(~frame_valid, float("-inf")).softmax(dim=-1)  # (P, M, T)
        gathered = torch.einsum("pmc,mdc->pmd", weights @ keys, value_weight.unflatten(0, (heads, -1)))
        out: Tensor = self.out_proj(gathered.flatten(1) + value_bias)
        return out
