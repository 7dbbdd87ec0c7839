"""RoIAlign (He et al., "Mask R-CNN", ICCV 2017) as a module with detectron2's arguments; the operation is torchvision's."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """Pool a map of fixed size for each box.

    `torchvision.ops.RoIAlign` is the same with ``aligned=False`` as its default.

    Args:
        output_size: (height, width) of the pooled map.
        spatial_scale: cells of the feature map in a pixel of the boxes.
        sampling_ratio: samples along each side of a cell of the output; 0 takes as many as the cell has input cells.
        aligned: the centre of the map's first cell lies at 0.5, as in pixels; without it at 0, as in the paper's code.
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
        """Pool.

        Args:
            input: ``(B, C, H, W)``.
            rois: ``(N, 5)``: index of the image in the batch, then XYXY.

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
