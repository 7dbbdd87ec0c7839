"""Deformable attention: each query attends to a few sampling points of a map, which it chooses itself.

Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1, equation 2, on one level.

Legend: ``B`` frames, ``Q`` queries, ``C`` width of a query, ``M`` heads, ``d`` = C / M width of a head, ``P`` sampling points per head,
``h, w`` height and width of the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.utils.limits import Positive

__all__ = ["DeformableAttention"]


class DeformableAttention(nn.Module):
    """A weighted sum of the map at ``P`` sampling points per head, given by offsets from the query's reference.

    Args:
        dim: ``C``.
        num_heads: ``M``.
        num_points: ``P``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, *, dim: Positive, num_heads: Positive = 8, num_points: Positive = 4) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}.")
        self.num_heads = num_heads
        self.num_points = num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first the sampling points of each head lie in one direction, 1 to ``P`` cells away, with equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)  # onto the square around the reference
        distance = torch.arange(1, self.num_points + 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * distance[:, None]).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, value: Tensor, map_size: tuple[int, int], valid: Tensor | None = None
    ) -> Tensor:
        """Attend to the map.

        Args:
            query: ``(B, Q, C)``.
            reference: ``(B, Q, 2)`` (x, y), from which offsets count cells, or ``(B, Q, 4)`` (cx, cy, w, h), from which they count shares
                of half the box; as shares of the map. A first axis of 1 serves all frames.
            value: ``(B, h * w, C)``, row by row.
            map_size: (h, w).
            valid: ``(B, h * w)`` bool, False for cells that count as 0, as what is outside of the map does; None: all count.

        Returns:
            ``(B, Q, C)``.
        """
        heads, points = self.num_heads, self.num_points
        values = self.value_proj(value)
        if valid is not None:
            values = values.masked_fill(~valid[..., None], 0.0)
        maps = values.float().transpose(1, 2).reshape(len(query) * heads, -1, *map_size)  # (B * M, d, h, w)
        places = self._places(query, reference.float(), map_size)  # (B, Q, M, P, 2)
        places = places.transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(maps, 2.0 * places - 1.0, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = self.attention_weights(query).float().unflatten(-1, (heads, points)).softmax(dim=-1)
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * M, 1, Q, P)
        gathered = (sampled * weights).sum(dim=-1).view(len(query), -1, query.shape[1])
        out: Tensor = self.output_proj(gathered.transpose(1, 2))
        return out

    def _places(self, query: Tensor, reference: Tensor, map_size: tuple[int, int]) -> Tensor:
        """``(B, Q, M, P, 2)`` (x, y) as shares of the map, in float32: half precision would be off by cells."""
        offsets = self.sampling_offsets(query).float().unflatten(-1, (self.num_heads, self.num_points, 2))
        reference = reference[:, :, None, None]
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / self.num_points))
        x, y = offsets.unbind(dim=-1)
        return reference + torch.stack((x / map_size[1], y / map_size[0]), dim=-1)
