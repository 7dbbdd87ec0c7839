"""Winograd's minimal filtering in the operations that a runtime's graph has: a convolution and products of matrices.

Legend: ``C, D`` channels of input and output, ``H, W`` height and width of a map, ``T`` tiles of 4 x 4 outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers.winograd import WinogradConv2d, winograd_transforms

__all__ = ["WinogradGraph", "use_winograd_graphs"]

MIN_CHANNELS = 192
"""With fewer, onnxruntime gains nothing. Of 128 channels at 64 x 64 it takes 14.6 ms, directly 15.1; of 256 at 32 x 32 10 and 15, of 512 29 and 57."""


class WinogradGraph(nn.Module):
    """What a 3x3 convolution of stride 1 with a padding of 1 computes for one image.

    The weights stay those of the convolution; a runtime transforms them once, when it folds constants.

    Args:
        conv: in the form that `prepare_for_inference` gives it.
    """

    of_tile: Tensor
    of_weight: Tensor
    of_product: Tensor

    def __init__(self, conv: WinogradConv2d) -> None:
        super().__init__()
        self.direct, self.activation = conv.direct, conv.activation
        # Over both axes of a tile at once: a graph's operations take longer to start than to multiply.
        of_tile, of_weight, of_product = (torch.kron(each, each).float() for each in winograd_transforms())
        self.register_buffer("of_tile", of_tile.view(36, 1, 6, 6), persistent=False)
        self.register_buffer("of_weight", of_weight, persistent=False)
        self.register_buffer("of_product", of_product, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(1, C, H, W)`` to ``(1, D, H, W)``."""
        out = self.direct(x) if len(x) != 1 else self._by_tiles(x)
        return out if self.activation is None else self.activation(out)

    def _by_tiles(self, x: Tensor) -> Tensor:
        weight, bias = self.direct.weight, self.direct.bias
        height, width = x.shape[-2:]
        rows, columns = -(-height // 4), -(-width // 4)
        padded = F.pad(x, (1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height))
        tiles = F.conv2d(padded.transpose(0, 1), self.of_tile, stride=4)  # (C, 36, rows, columns)
        kernel = (self.of_weight @ weight.flatten(2).permute(2, 0, 1).flatten(1)).view(36, *weight.shape[:2])
        product = kernel @ tiles.flatten(2).transpose(0, 1)  # (36, D, T)
        out = (self.of_product @ product.flatten(1)).view(4, 4, -1, rows, columns)
        out = out.permute(2, 3, 0, 4, 1).reshape(1, -1, 4 * rows, 4 * columns)[..., :height, :width]
        return out if bias is None else out + bias[:, None, None]


def use_winograd_graphs(model: nn.Module) -> None:
    """Replace the convolutions of a prepared model that `prepare_for_inference` computes by Winograd, and that are faster so in a runtime."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, WinogradConv2d) and min(module.direct.weight.shape[:2]) >= MIN_CHANNELS
    }
    for name, module in found.items():
        model.set_submodule(name, WinogradGraph(module))
