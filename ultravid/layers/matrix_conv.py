"""Convolutions of small maps as one product of matrices, which reads the weights as they are.

On a CPU, oneDNN copies the weights of a convolution into its own layout at each call. For a map of a few cells and weights of megabytes,
such as those of a flow network's coarsest levels, the copy takes most of the time: 1024 to 1024 channels at 2 x 2 take 50 ms, 8 as a product.

Legend: ``N`` images, ``C, D`` channels of input and output, ``H, W`` height and width, ``K`` side of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MatrixConv2d", "MatrixConvTranspose2d", "use_matrix_products"]

MIN_WEIGHTS = 1 << 20
"""With fewer, the copy of the weights takes less than a millisecond."""
MAX_CELLS = 64
"""With more, of the output of a convolution or the input of a transposed one, the multiplications take longer than the copy."""


class MatrixConv2d(nn.Module):
    """What a convolution computes, without gradients; as a product of matrices if the output has few cells.

    A program that `torch.export` makes of it has the convolution itself.

    Args:
        conv: in evaluation mode, of one group, with zeros as padding and no norm after it; an ``activation`` that it has is applied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.direct = conv

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, D, H', W')``."""
        conv = self.direct
        assert not isinstance(conv.padding, str)
        (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
        height, width = (x.shape[2] + 2 * ph - kh) // sh + 1, (x.shape[3] + 2 * pw - kw) // sw + 1
        if torch.compiler.is_exporting() or not 0 < len(x) * height * width <= MAX_CELLS:
            direct: Tensor = conv(x)
            return direct
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
        patches = padded.unfold(1, kh, sh).unfold(2, kw, sw).permute(0, 1, 2, 4, 5, 3)  # (N, H', W', K, K, C)
        weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, -1)  # a view if it is channels-last
        out = F.linear(patches.reshape(-1, weight.shape[1]), weight, conv.bias)
        out = out.view(len(x), height, width, -1).permute(0, 3, 1, 2)
        activation: Callable[[Tensor], Tensor] | None = getattr(conv, "activation", None)
        return out if activation is None else activation(out)


class MatrixConvTranspose2d(nn.Module):
    """What a transposed convolution computes, without gradients; as a product of matrices if the input has few cells.

    A program that `torch.export` makes of it has the transposed convolution itself.

    Args:
        conv: of one group and without dilation.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.direct = conv

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, D, H', W')``."""
        conv, (num_images, _, height, width) = self.direct, x.shape
        if torch.compiler.is_exporting() or not 0 < num_images * height * width <= MAX_CELLS:
            out: Tensor = conv(x)
            return out
        assert not isinstance(conv.padding, str)
        (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
        weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.in_channels, -1)  # a view if it is channels-last
        patches = x.permute(0, 2, 3, 1).reshape(-1, conv.in_channels) @ weight  # (N * H * W, K * K * D)
        patches = patches.view(num_images, height * width, kh * kw, -1).permute(0, 3, 2, 1).flatten(1, 2)
        size = (
            (height - 1) * sh - 2 * ph + kh + conv.output_padding[0],
            (width - 1) * sw - 2 * pw + kw + conv.output_padding[1],
        )
        out = F.fold(patches, size, (kh, kw), padding=(ph, pw), stride=(sh, sw))
        return out if conv.bias is None else out + conv.bias[:, None, None]


def use_matrix_products(module: nn.Module) -> None:
    """Replace the convolutions of a module that have many weights, in place: those of small maps are products of matrices then.

    Args:
        module: in evaluation mode, on a CPU, channels-last, with norms folded.
    """
    for name, conv in list(module.named_modules()):
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or not _suits(conv):
            continue
        parent, _, attribute = name.rpartition(".")
        replaced = MatrixConv2d(conv) if isinstance(conv, nn.Conv2d) else MatrixConvTranspose2d(conv)
        setattr(module.get_submodule(parent), attribute, replaced.eval())


def _suits(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return (
        conv.weight.numel() >= MIN_WEIGHTS
        and conv.groups == 1
        and tuple(conv.dilation) == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and getattr(conv, "norm", None) is None
    )
