"""3x3 convolutions by Winograd's minimal filtering, which takes a quarter of the multiplications.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.1: F(4x4, 3x3). The points that polynomials
are evaluated at are 0, 1, -1, 2, -1/2 and infinity; in float32 the error of a sum over 256 channels is then about twice that of a direct
convolution, where with 2 and -2, as in the paper, it is four times.

Legend: ``N`` images, ``C, D`` channels of input and output, ``H, W`` height and width, ``T`` tiles of 4 x 4 outputs of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "WinogradConv2d",
    "num_tiles",
    "suits_winograd",
    "trained_conv2d",
    "use_winograd",
    "winograd_conv2d",
    "winograd_transforms",
    "winograd_weight",
]

_OUT, _KERNEL = 4, 3
_IN = _OUT + _KERNEL - 1
_POINTS = (0.0, 1.0, -1.0, 2.0, -0.5)
_ALL_ONES = 1  # the point 1, whose powers are 1: what is added to it is added to each output

MIN_CHANNELS = 96
"""With fewer, moving the tiles takes as long as the multiplications that are saved: of 64 channels at 128 x 128, 13 ms against 15."""
MIN_TILES = 48
"""With fewer, reading the transformed weights, which are four times as many, takes longer than a direct convolution."""


def _multiply(a: list[float], b: list[float]) -> list[float]:
    """The product of two polynomials, lowest power first."""
    product = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def _product_without(left_out: int | None) -> list[float]:
    """The product of (x - p) over all points but one, filled up with zeros to ``_IN`` coefficients."""
    polynomial = [1.0]
    for i, point in enumerate(_POINTS):
        if i != left_out:
            polynomial = _multiply(polynomial, [-point, 1.0])
    return polynomial + [0.0] * (_IN - len(polynomial))


def winograd_transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of the input ``(6, 6)``, the kernel ``(6, 3)`` and the product ``(4, 6)``, each over one axis of a tile, in float64."""
    to_output = [[p**i for p in _POINTS] + [float(i == _OUT - 1)] for i in range(_OUT)]
    of_kernel = []
    for i, point in enumerate(_POINTS):
        scale = 1.0
        for j, other in enumerate(_POINTS):
            scale *= point - other if i != j else 1.0
        of_kernel.append([point**k / scale for k in range(_KERNEL)])
    of_kernel.append([0.0] * (_KERNEL - 1) + [1.0])
    of_input = [_product_without(i) for i in range(len(_POINTS))] + [_product_without(None)]
    of_tile, of_weight, of_product = (
        torch.tensor(rows, dtype=torch.float64) for rows in (of_input, of_kernel, to_output)
    )
    return of_tile, of_weight, of_product


_OF_TILE, _OF_WEIGHT, _OF_PRODUCT = winograd_transforms()


def _over_both_axes(transform: Tensor, x: Tensor) -> Tensor:
    """``(p, q)``, over one axis of a tile, times ``(q * q, n)`` over both axes: ``(p * p, n)``.

    One axis after the other takes half the time of both at once, by the Kronecker product.
    """
    p, q = transform.shape
    transform = transform.to(x)
    over_columns = torch.bmm(transform.expand(q, p, q), x.view(q, q, -1))
    return (transform @ over_columns.view(q, -1)).view(p * p, -1)


_BLOCK = 1 << 20
"""Numbers in the transformed tiles that are computed at once: 4 MB stay in the caches of a core."""


def winograd_weight(weight: Tensor) -> Tensor:
    """``(36, C, D)`` of a kernel ``(D, C, 3, 3)``, in its dtype."""
    kernel = weight.flatten(2).permute(2, 1, 0).flatten(1)  # (9, C * D)
    return _over_both_axes(_OF_WEIGHT, kernel).view(_IN**2, weight.shape[1], weight.shape[0])


def winograd_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with a padding of 1.

    Args:
        x: ``(N, C, H, W)``, the fastest if channels-last in memory.
        weight: ``(36, C, D)``, of `winograd_weight`.
        bias: ``(D,)``.

    Returns:
        ``(N, D, H, W)``, channels-last in memory.
    """
    num_images, _, height, width = x.shape
    size = (num_images, weight.shape[-1], height, width)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for tiles, out in zip(_blocks(x), _output_blocks(x, result.permute(0, 2, 3, 1)), strict=True):
        product = torch.bmm(_transformed(tiles), weight)  # (36, T, D)
        if bias is not None:
            product[_ALL_ONES * (_IN + 1)] += bias
        images, rows, columns = tiles.shape[:3]
        computed = _over_both_axes(_OF_PRODUCT, product.flatten(1))  # (16, T * D)
        computed = computed.view(_OUT, _OUT, images, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
        if (rows * _OUT, columns * _OUT) == out.shape[1:3]:
            out.view(computed.shape).copy_(computed)
        else:  # outputs beyond the border are dropped
            computed = computed.reshape(images, rows * _OUT, columns * _OUT, -1)
            out.copy_(computed[:, : out.shape[1], : out.shape[2]])
    return result


def _tiling(height: int, width: int) -> tuple[int, int]:
    return -(-height // _OUT), -(-width // _OUT)


def _block_size(x: Tensor) -> tuple[int, int]:
    """Images, and rows of tiles of an image, that are computed at once: several whole images, or a part of one."""
    rows, _ = _tiling(x.shape[-2], x.shape[-1])
    of_image = _IN**2 * num_tiles(x[:1]) * x.shape[1]
    return max(1, _BLOCK // of_image), -(-rows // -(-of_image // _BLOCK))


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """The overlapping tiles ``(images, rows, columns, C, 6, 6)`` of ``(N, C, H, W)``, block by block: views of padded copies."""
    height, width = x.shape[-2:]
    rows, columns = _tiling(height, width)
    right, lower = columns * _OUT + 1 - width, rows * _OUT + 1 - height
    images, rows_at_once = _block_size(x)
    for part in x.permute(0, 2, 3, 1).split(images):
        padded = F.pad(part, (0, 0, 1, right, 1, lower))
        yield from padded.unfold(1, _IN, _OUT).unfold(2, _IN, _OUT).split(rows_at_once, dim=1)


def _output_blocks(x: Tensor, out: Tensor) -> Iterator[Tensor]:
    """The parts of ``(N, H, W, D)`` that belong to the `_blocks` of x."""
    images, rows = _block_size(x)
    for part in out.split(images):
        yield from part.split(rows * _OUT, dim=1)


def _transformed(tiles: Tensor) -> Tensor:
    """``(36, T, C)`` of tiles ``(images, rows, columns, C, 6, 6)``."""
    gathered = tiles.permute(4, 5, 0, 1, 2, 3).reshape(_IN**2, -1)  # (36, T * C)
    return _over_both_axes(_OF_TILE, gathered).view(_IN**2, -1, tiles.shape[3])


def _transformed_gradient(grad: Tensor) -> Tensor:
    """``(36, T, D)``: the gradient of the products, of a block ``(images, height, width, D)`` of the output's."""
    _, height, width, channels = grad.shape
    rows, columns = _tiling(height, width)
    padded = F.pad(grad, (0, 0, 0, columns * _OUT - width, 0, rows * _OUT - height))
    tiles = padded.unfold(1, _OUT, _OUT).unfold(2, _OUT, _OUT).permute(4, 5, 0, 1, 2, 3).reshape(_OUT**2, -1)
    return _over_both_axes(_OF_PRODUCT.T, tiles).view(_IN**2, -1, channels)


class _Winograd(torch.autograd.Function):
    """`winograd_conv2d` of a kernel ``(D, C, 3, 3)``; the tiles are transformed again for the gradient, not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd_conv2d(x, winograd_weight(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad, (of_x, of_weight, of_bias) = grads[0], ctx.needs_input_grad
        grad_x = winograd_conv2d(grad, winograd_weight(weight.flip(2, 3).transpose(0, 1)), None) if of_x else None
        grad_weight = None
        if of_weight:
            products = weight.new_zeros(_IN**2, x.shape[1], grad.shape[1])
            for tiles, of_outputs in zip(_blocks(x), _output_blocks(x, grad.permute(0, 2, 3, 1)), strict=True):
                products.baddbmm_(_transformed(tiles).mT, _transformed_gradient(of_outputs))
            kernel = _over_both_axes(_OF_WEIGHT.T, products.flatten(1))
            grad_weight = kernel.view(3, 3, *products.shape[1:]).permute(3, 2, 0, 1).contiguous()
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)) if of_bias else None


def trained_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`winograd_conv2d` of a kernel ``(D, C, 3, 3)``, with gradients."""
    out: Tensor = _Winograd.apply(x, weight, bias)
    return out


class WinogradConv2d(nn.Module):
    """What a 3x3 convolution of stride 1 with a padding of 1 computes, without gradients.

    A program that `torch.export` makes of it has the convolution itself: other runtimes have their own ways to compute one.

    Args:
        conv: with stride, dilation and groups of 1, zeros as padding, and no norm after it; is not changed.
        activation: applied last; None for none.
    """

    weight: Tensor

    def __init__(self, conv: nn.Conv2d, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", winograd_weight(conv.weight.detach().double()).to(conv.weight).contiguous())
        self.direct = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        self.direct.weight, self.direct.bias = conv.weight, conv.bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, D, H, W)``; see `winograd_conv2d`."""
        exported = torch.compiler.is_exporting()
        out = self.direct(x) if exported else winograd_conv2d(x, self.weight, self.direct.bias)
        return out if self.activation is None else self.activation(out)


def suits_winograd(conv: nn.Module) -> bool:
    """Whether a module is a convolution that Winograd's filtering computes, with enough channels to gain by it."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (_KERNEL, _KERNEL)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def num_tiles(x: Tensor) -> int:
    """``T`` of ``(N, C, H, W)``."""
    rows, columns = _tiling(x.shape[-2], x.shape[-1])
    return len(x) * rows * columns


def use_winograd(module: nn.Module, run: Callable[[], object]) -> None:
    """Replace the convolutions of a module, in place, that are faster so: by their channels, and by the maps that they are given.

    Args:
        module: in evaluation mode, with norms folded.
        run: runs the module once, on inputs of the size that it will have.
    """
    found = {
        name: conv
        for name, conv in module.named_modules()
        if suits_winograd(conv) and getattr(conv, "norm", None) is None
    }
    tiles: dict[nn.Module, int] = {}

    def note(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tiles[conv] = min(num_tiles(inputs[0]), tiles.get(conv, 1 << 31))

    hooks = [conv.register_forward_pre_hook(note) for conv in found.values()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for name, conv in found.items():
        if tiles.get(conv, 0) >= MIN_TILES:
            assert isinstance(conv, nn.Conv2d)
            parent, _, attribute = name.rpartition(".")
            replaced = WinogradConv2d(conv, getattr(conv, "activation", None)).eval()
            setattr(module.get_submodule(parent), attribute, replaced)
