"""Sine encodings of the positions of cells.

Legend: ``B`` frames, ``h, w`` height and width of the map, ``C`` width of a token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ultravid.modeling.query.base import Cells

__all__ = ["sine_positions"]


def sine_positions(
    map_size: tuple[int, int], dim: int, cells: Cells | None = None, device: torch.device | None = None
) -> Tensor:
    """``(1, h * w, C)``, or ``(B, h * w, C)`` with ``cells``: the first half encodes the row, the second the column.

    A coordinate is (index + 0.5) / (size + 1e-6) * 2 pi, the size being that of the image in cells; in either half, entry i is the sine
    (i even) or cosine (i odd) of coordinate / 10000 ** (2 * floor(i / 2) / (C / 2)).

    Source: Carion et al., "End-to-end object detection with transformers", ECCV 2020, appendix A.4.

    Args:
        map_size: (h, w).
        dim: ``C``, a multiple of 4.
        cells: sizes of images in a padded batch.
        device: device of the result.
    """
    half = dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=device) / half
    wavelength = torch.pow(torch.tensor(10000.0, device=device), exponent)
    halves = []
    for axis, count in enumerate(map_size):
        place = (torch.arange(count, dtype=torch.float32, device=device) + 0.5)[None]
        place = place / ((count if cells is None else cells.size[:, axis, None]) + 1e-6) * (2.0 * math.pi)
        phase = place[..., None] / wavelength  # (B, h or w, C / 4)
        halves.append(torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2))
    rows, columns = halves
    frames = len(rows)
    return torch.cat(
        (
            rows[:, :, None].expand(frames, *map_size, half),
            columns[:, None].expand(frames, *map_size, half),
        ),
        dim=-1,
    ).flatten(1, 2)
