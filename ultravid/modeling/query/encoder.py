"""The encoder: self-attention between the cells of a feature map.

Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1 and appendix A.4, on one level.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.modeling.query.base import Cells
from ultravid.modeling.query.deformable import DeformableAttention
from ultravid.modeling.query.positions import sine_positions
from ultravid.utils.limits import Positive, Share

__all__ = ["DeformableEncoder", "FeedForward"]


class FeedForward(nn.Module):
    """``norm(x + linear2(relu(linear1(x))))``."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)``."""
        hidden = self.dropout(F.relu(self.linear1(x), inplace=True))
        out: Tensor = self.norm(x + self.dropout(self.linear2(hidden)))
        return out


class EncoderLayer(nn.Module):
    """Deformable attention of the cells to the map, then a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, num_points: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = DeformableAttention(dim=dim, num_heads=num_heads, num_points=num_points)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(
        self, x: Tensor, position: Tensor, centers: Tensor, map_size: tuple[int, int], valid: Tensor | None
    ) -> Tensor:
        """``(B, h * w, C)``."""
        attended = self.self_attention(x + position, centers, x, map_size, valid)
        out: Tensor = self.ffn(self.norm(x + self.dropout(attended)))
        return out


class DeformableEncoder(nn.Module):
    """A projection to the width of the queries, and encoder layers.

    A small image in a padded batch is encoded as it would be by itself, given the same features: cells of the padding count neither in the
    group norm nor in attention, and positions are relative to the image.

    Args:
        in_channels: number of channels of the feature map.
        dim: ``C`` of the result, a multiple of 4.
        num_layers: number of layers.
        num_heads: number of attention heads.
        num_points: number of sampling points per head.
        ffn_dim: hidden width of the feed-forward networks.
        norm_groups: number of groups of the projection's group norm.
        dropout: dropout probability of attention and feed-forward networks during training.
    """

    def __init__(
        self,
        *,
        in_channels: Positive,
        dim: Positive = 256,
        num_layers: Positive = 2,
        num_heads: Positive = 8,
        num_points: Positive = 4,
        ffn_dim: Positive = 512,
        norm_groups: Positive = 32,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.dim = dim
        self.input_proj = nn.Conv2d(in_channels, dim, 1)
        self.input_norm = nn.GroupNorm(norm_groups, dim)
        self.level_embed = nn.Parameter(torch.empty(1, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, num_points, ffn_dim, dropout) for _ in range(num_layers)
        )
        nn.init.xavier_uniform_(self.input_proj.weight)
        assert self.input_proj.bias is not None
        nn.init.zeros_(self.input_proj.bias)
        nn.init.normal_(self.level_embed)

    def forward(self, feature_map: Tensor, cells: Cells | None = None) -> Tensor:
        """Encode feature maps.

        Args:
            feature_map: ``(B, in_channels, h, w)``.
            cells: which cells show their image, if smaller images were padded; None without padding.

        Returns:
            ``(B, C, h, w)``.
        """
        projected = self.input_proj(feature_map)
        projected = (
            self.input_norm(projected) if cells is None else _norm_of_cells(self.input_norm, projected, cells.valid)
        )
        map_size = (projected.shape[-2], projected.shape[-1])
        x = projected.flatten(2).transpose(1, 2)
        position = sine_positions(map_size, self.dim, cells, x.device) + self.level_embed
        centers = _centers(map_size, x.device)
        valid = None if cells is None else cells.valid.flatten(1)
        for layer in self.layers:
            x = layer(x, position, centers, map_size, valid)
        return x.transpose(1, 2).unflatten(2, map_size)


def _centers(map_size: tuple[int, int], device: torch.device) -> Tensor:
    """``(1, h * w, 2)`` (x, y) of the cells as shares of the map, row by row."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in map_size)
    grid = torch.stack((x.expand(map_size), y[:, None].expand(map_size)), dim=-1)
    return grid.flatten(0, 1)[None]


def _norm_of_cells(norm: nn.GroupNorm, x: Tensor, valid: Tensor) -> Tensor:
    """The group norm ``(B, C, h, w)`` with the mean and variance of the valid cells ``(B, h, w)`` only."""
    groups = x.float().unflatten(1, (norm.num_groups, -1))
    weight = valid[:, None, None].float()
    count = weight.sum(dim=(-2, -1), keepdim=True) * groups.shape[2]
    mean = (groups * weight).sum(dim=(2, 3, 4), keepdim=True) / count
    centered = groups - mean
    variance = (centered.square() * weight).sum(dim=(2, 3, 4), keepdim=True) / count
    normed = (centered * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]
