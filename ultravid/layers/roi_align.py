"""RoIAlign (He et al., "Mask R-CNN", ICCV 2017): torchvision's operation, and the same as products of matrices.

Legend: ``B`` frames, ``N`` boxes of a frame, ``C, h, w`` channels, height, width of a map, ``P, Q`` rows and columns of a pooled map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "pool_boxes", "roi_align"]


def pool_boxes(
    maps: Tensor,
    boxes: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign of equally many boxes of each frame, with what `torchvision.ops.roi_align` gives but for rounding.

    A bilinear sample is a weighted sum over rows, then over columns, and so is a mean of samples on a grid. The pooled map is
    therefore ``rows @ map @ columns.T``, whose backward pass is made of products too: on a CPU torchvision's runs on one thread, and
    on CUDA it adds in no fixed order. The shapes do not depend on the boxes, so that it compiles and exports.

    Args:
        maps: ``(B, C, h, w)``; the fastest if channels-last in memory.
        boxes: ``(B, N, 4)`` XYXY in pixels; they get no gradient.
        output_size: ``(P, Q)``, or one number for both.
        spatial_scale: cells of the map in a pixel of the boxes.
        sampling_ratio: samples along each side of a cell of the output; 0 takes as many as the cell has cells of the map, where a box
            that is larger than two maps takes no more than one of two maps.
        aligned: see `ROIAlign`.

    Returns:
        ``(B * N, C, P, Q)``, channels-last in memory if it takes no gradient, in the dtype of the maps; computed in float32.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    num_frames, channels, height, width = maps.shape
    with torch.no_grad():
        cells = boxes.float() * spatial_scale - (0.5 if aligned else 0.0)
        x1, y1, x2, y2 = cells.unbind(-1)
        row_weights = _axis_weights(y1, y2, rows, height, sampling_ratio, aligned)
        column_weights = _axis_weights(x1, x2, columns, width, sampling_ratio, aligned)
    with torch.autocast(maps.device.type, enabled=False):
        cells_last = maps.float().permute(0, 2, 3, 1).reshape(num_frames, height, width * channels)
        by_row = row_weights.flatten(1, 2) @ cells_last  # (B, N * P, w * C)
        by_row = by_row.view(-1, rows, width, channels)
        pooled = column_weights.flatten(0, 1)[:, None] @ by_row  # (B * N, P, Q, C)
    pooled = pooled.permute(0, 3, 1, 2).to(maps.dtype)
    return (
        pooled.contiguous() if pooled.requires_grad and pooled.device.type == "cpu" else pooled
    )  # see `to_fast_layout`


def _axis_weights(start: Tensor, end: Tensor, bins: int, cells: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """``(B, N, bins, cells)``: the share of each cell in each bin of boxes from ``start`` to ``end``, ``(B, N)``, along one axis."""
    size = end - start if aligned else (end - start).clamp(min=1.0)
    size = size[..., None, None]
    if sampling_ratio > 0:
        most, count = sampling_ratio, size.new_full((), sampling_ratio)
    else:
        most = -(-2 * cells // bins)
        count = torch.ceil(size / bins).clamp(max=most)
    sample = torch.arange(most, device=size.device, dtype=size.dtype)
    place = torch.arange(bins, device=size.device, dtype=size.dtype)[:, None]
    width = size / bins
    at = start[..., None, None] + place * width + (sample + 0.5) * width / count.clamp(min=1.0)  # (B, N, bins, samples)
    counts = (sample < count) & (at >= -1.0) & (at <= cells)  # what lies further out is 0
    at = at.clamp(0.0, cells - 1.0)
    cell = torch.arange(cells, device=size.device, dtype=size.dtype)
    share = (1.0 - (at[..., None] - cell).abs()).clamp(min=0.0) * counts[..., None]
    return share.sum(dim=-2) / count.clamp(min=1.0)


class ROIAlign(nn.Module):
    """Pool a map of fixed size for each box.

    `torchvision.ops.RoIAlign` is the same with ``aligned=False`` as its default.

    Args:
        output_size: (height, width) of the pooled map.
        spatial_scale: cells of the feature map in a pixel of the boxes.
        sampling_ratio: samples along each side of a cell of the output; 0 takes as many as the cell has input cells.
        aligned: the center of the map's first cell lies at 0.5, as in pixels; without it at 0, as in the paper's code.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool each box.

        Args:
            input: ``(B, C, H, W)``.
            rois: ``(N, 5)``: index of the image in the batch, then XYXY in pixels.

        Returns:
            ``(N, C, height, width)``.
        """
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise ValueError(f"rois need shape (N, 5): image and XYXY, got {tuple(rois.shape)}.")
        pooled: Tensor = roi_align(
            input, rois.to(input.dtype), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )
        return pooled

    def extra_repr(self) -> str:
        """The arguments, for the module's print."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
