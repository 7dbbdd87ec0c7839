"""ResNets (He et al., "Deep residual learning for image recognition", CVPR 2016, table 1).

torchvision's ResNets have the same blocks under other names, and always four stages of fixed widths. Detectors of
lesions end at the third stage, freeze the first ones, and are tested at a quarter of the width. `ultravid.checkpoint` reads
torchvision's weights into these names.

Legend: ``N`` images, ``C, H, W`` channels, height, width; ``s`` the stride of the last stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Conv2d, FrozenBatchNorm2d, get_norm
from ultravid.layers.conv import c2_msra_fill, to_fast_layout
from ultravid.modeling.backbone.pretrained import load_backbone_weights, torchvision_hint
from ultravid.utils.limits import EitherThisOr, NotNegative, Positive

__all__ = ["BasicBlock", "BottleneckBlock", "ResNet", "Stage", "make_stage"]

Norm = str | Callable[[int], nn.Module] | None
BlockKind = Literal["basic", "bottleneck"]
StageName = Literal["res2", "res3", "res4", "res5"]

_BLOCKS_BY_DEPTH = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STRIDES = (1, 2, 2, 2)


class _Block(nn.Module):
    """A shortcut, which is a 1x1 convolution with ``project``, a stride, or another width."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm, project: bool) -> None:
        super().__init__()
        self.shortcut = (
            Conv2d(
                in_channels,
                out_channels,
                1,
                stride=stride,
                bias=False,
                norm=get_norm(norm, out_channels),
            )
            if project or stride != 1 or in_channels != out_channels
            else None
        )

    def _residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``, rounded up."""
        out = self._residual(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu(out, inplace=True)  # in place: half the memory of training, and fewer pages to fill


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution with ``project``, a stride, or another width.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution and the shortcut.
        norm: the norm after each convolution, as of `get_norm`.
        project: whether the shortcut is a 1x1 convolution in any case.
        dilation: of both 3x3 convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "BN",
        project: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, project)
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            bias=False,
            norm=get_norm(norm, out_channels),
        )
        self.conv2 = Conv2d(
            out_channels,
            out_channels,
            3,
            padding=dilation,
            dilation=dilation,
            bias=False,
            norm=get_norm(norm, out_channels),
        )
        for conv in (self.conv1, self.conv2, self.shortcut):
            if conv is not None:
                c2_msra_fill(conv)

    def _residual(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True))
        return out


class BottleneckBlock(_Block):
    """1x1, 3x3 and 1x1 convolutions, the first two with a quarter of the width, and a shortcut as `BasicBlock`'s.

    The stride is the 3x3 convolution's, as in torchvision; with ``stride_in_1x1`` the first one's, as in the paper and in detectron2's
    files of MSRA.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, a multiple of 4.
        stride: of the block and its shortcut.
        norm: the norm after each convolution, as of `get_norm`.
        project: whether the shortcut is a 1x1 convolution in any case.
        dilation: of the 3x3 convolution.
        stride_in_1x1: whether the first convolution has the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "BN",
        project: bool = False,
        dilation: int = 1,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, project)
        width = out_channels // 4
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, stride=first, bias=False, norm=get_norm(norm, width))
        self.conv2 = Conv2d(
            width,
            width,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            bias=False,
            norm=get_norm(norm, width),
        )
        self.conv3 = Conv2d(width, out_channels, 1, bias=False, norm=get_norm(norm, out_channels))
        for conv in (self.conv1, self.conv2, self.conv3, self.shortcut):
            if conv is not None:
                c2_msra_fill(conv)

    def _residual(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True))
        return out


class Stage(nn.Sequential):
    """Blocks in a row; the first may have a stride.

    Attributes:
        in_channels: width of the map that the first block takes.
        out_channels: width of the map that the last block gives.
    """

    in_channels: int
    out_channels: int


def make_stage(
    num_blocks: Positive,
    in_channels: Positive,
    out_channels: Positive,
    *,
    stride: Positive,
    norm: Norm,
    project: bool = False,
    block: BlockKind = "basic",
    dilation: Positive = 1,
    stride_in_1x1: bool = False,
) -> nn.Sequential:
    """Blocks in a row; the first has the stride, and with ``project`` always a 1x1 shortcut.

    Args:
        num_blocks: the number of blocks.
        in_channels: channels of the input.
        out_channels: channels of every block's output.
        stride: of the first block.
        norm: the norm after each convolution, as of `get_norm`.
        project: whether the first block's shortcut is a convolution in any case.
        block: ``"basic"`` for `BasicBlock`, ``"bottleneck"`` for `BottleneckBlock`.
        dilation: of all 3x3 convolutions.
        stride_in_1x1: as of `BottleneckBlock`; basic blocks don't have it.
    """

    def one(channels: int, stride: int, project: bool) -> nn.Module:
        if block == "basic":
            return BasicBlock(channels, out_channels, stride=stride, norm=norm, project=project, dilation=dilation)
        return BottleneckBlock(
            channels,
            out_channels,
            stride=stride,
            norm=norm,
            project=project,
            dilation=dilation,
            stride_in_1x1=stride_in_1x1,
        )

    first = one(in_channels, stride, project)
    stage = Stage(first, *(one(out_channels, 1, False) for _ in range(num_blocks - 1)))
    stage.in_channels, stage.out_channels = in_channels, out_channels
    return stage


class ResNet(nn.Module):
    """A stem and stages of blocks; the last stage's map is the feature.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks), which sets the number of blocks of each stage. Give either this or
            ``num_blocks``.
        num_blocks: number of blocks of each stage, the first of which is ``res2``.
        channels: width of each stage's map; their number is the number of stages. None: 64, 128, 256, 512, or four times that with
            bottlenecks.
        strides: stride of each stage, after the stem's stride of 4. None: 1, 2, 2, 2.
        stem_channels: width of the 7x7 stem.
        norm: name of a norm, as for `ultravid.layers.get_norm`.
        freeze_at: 0 freezes nothing, 1 the stem, 2 the stem and res2, and so on: parameters get no gradient, and batch norm
            becomes frozen batch norm.
        last_stage: the stage to stop at; None: the last of ``channels``, or "res4" if these are not given either.
        block: kind of blocks; None: as the depth says, "basic" with ``num_blocks``.
        dilations: the dilations of the 3x3 convolutions of each stage; with ``strides`` of 1 for the same stage its map keeps the resolution of the
            one before. None: 1.
        stride_in_1x1: see `BottleneckBlock`.
        out_channels: a 1x1 convolution brings the map to this width, which the parts after the backbone may ask for; None: no projection.
        weights: file or address of weights for the backbone, such as torchvision's; "" for none. ``train.init_checkpoint`` takes the same
            files, and is not asked for again when the model is built from a run's folder.

    Attributes:
        out_channels: width of the feature.
        stride: pixels from cell to cell.

    Raises:
        ValueError: neither or both of ``depth`` and ``num_blocks`` are given, the depth is unknown, or lists differ in length.
        CheckpointError: the weights can't be read, or don't fit.
    """

    def __init__(
        self,
        *,
        depth: Annotated[int | None, EitherThisOr("num_blocks")] = None,
        num_blocks: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        stem_channels: Positive = 64,
        norm: Norm = "FrozenBN",
        freeze_at: NotNegative = 0,
        last_stage: StageName | None = None,
        block: BlockKind | None = None,
        dilations: Sequence[int] | None = None,
        stride_in_1x1: bool = False,
        out_channels: Positive | None = None,
        weights: str = "",
    ) -> None:
        super().__init__()
        kind: BlockKind = block or ("bottleneck" if (depth or 0) >= 50 else "basic")
        stages = _stages(_num_blocks(depth, num_blocks), kind, channels, strides, dilations, last_stage)
        self.stem = _stem(stem_channels, norm)
        width = stem_channels
        self.stage_names = [f"res{i + 2}" for i in range(len(stages))]
        for name, stage in zip(self.stage_names, stages, strict=True):
            blocks = make_stage(
                stage.num_blocks,
                width,
                stage.channels,
                stride=stage.stride,
                norm=norm,
                block=kind,
                dilation=stage.dilation,
                stride_in_1x1=stride_in_1x1,
            )
            self.add_module(name, blocks)
            width = stage.channels
        self.stride = 4 * math.prod(stage.stride for stage in stages)
        if weights:
            load_backbone_weights(self, weights, torchvision_hint(f"resnet{depth or 34}"))
        self.projection = None if out_channels is None else nn.Conv2d(width, out_channels, 1)
        self.out_channels: int = width if out_channels is None else out_channels
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int) -> Self:
        """Freeze the first stages: parameters get no gradient, and batch norm becomes frozen batch norm.

        Args:
            freeze_at: 0 freezes nothing, 1 the stem, 2 the stem and res2, and so on. What is frozen already stays so.

        Returns:
            The model itself.
        """
        for module in [self.stem, *(self.get_submodule(n) for n in self.stage_names)][:freeze_at]:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The feature map ``(N, C, ceil(H / s), ceil(W / s))`` of images ``x`` ``(N, 3, H, W)``, normalised; ``s`` is `stride`."""
        conv1 = self.stem.get_submodule("conv1")
        x = F.max_pool2d(conv1(to_fast_layout(x, conv1)), 3, stride=2, padding=1)
        for name in self.stage_names:
            stage = self.get_submodule(name)
            x = stage(to_fast_layout(x, stage))
        if torch.is_grad_enabled() and x.device.type == "cpu":
            x = x.contiguous()  # what comes next may be trained
        return x if self.projection is None else self.projection(x)


class _Stage(NamedTuple):
    num_blocks: int
    channels: int
    stride: int
    dilation: int


def _num_blocks(depth: int | None, num_blocks: Sequence[int] | None) -> Sequence[int]:
    if (depth is None) == (num_blocks is None):
        raise ValueError(
            f"ResNet takes either depth or num_blocks, and has {'neither' if depth is None else 'both'}: set one of them to None."
        )
    if num_blocks is not None:
        return num_blocks
    if depth not in _BLOCKS_BY_DEPTH:
        raise ValueError(f"A ResNet has the depth {', '.join(map(str, _BLOCKS_BY_DEPTH))}, got {depth}.")
    return _BLOCKS_BY_DEPTH[depth]


def _stages(
    num_blocks: Sequence[int],
    kind: BlockKind,
    channels: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    last_stage: StageName | None,
) -> list[_Stage]:
    """The stages up to the last one; what is None has the default that `ResNet` states."""
    number = _num_stages(last_stage, channels)
    if channels is None:
        channels = [2**i * (256 if kind == "bottleneck" else 64) for i in range(number)]
    strides = _STRIDES[:number] if strides is None else strides
    dilations = [1] * number if dilations is None else dilations
    if min(map(len, (channels, strides, dilations, num_blocks))) < number or (
        last_stage is None and not len(channels) == len(strides) == len(dilations)
    ):
        raise ValueError(
            f"{len(channels)} channels, {len(strides)} strides, {len(dilations)} dilations and {len(num_blocks)} num_blocks don't fit "
            f"together, or are fewer than the {number} stages."
        )
    values = zip(num_blocks, channels, strides, dilations, strict=False)  # stages after the last one are not built
    return [_Stage(*stage) for stage in values][:number]


def _stem(channels: int, norm: Norm) -> nn.Module:
    stem = nn.Module()
    stem.conv1 = Conv2d(
        3, channels, 7, stride=2, padding=3, bias=False, norm=get_norm(norm, channels), activation=torch.relu_
    )
    c2_msra_fill(stem.conv1)
    return stem


def _num_stages(last_stage: str | None, channels: Sequence[int] | None) -> int:
    if last_stage is not None:
        return int(last_stage.removeprefix("res")) - 1
    return 3 if channels is None else len(channels)
