#!/usr/bin/env python
"""What a frame of a stream costs: milliseconds (p50, p95, worst) of every published model, and how many times the plain form takes.

    python benchmarks/inference.py [--models NAME ...] [--size 512] [--depth 34] [--threads 2] [--turns 5] [--forms eager bf16 compiled]

The models are those of `ultravid.modeling.published`, with random weights. Each is run in these forms, in turns, on the same frames:

- ``plain``, the yardstick: the formulas as they are written down, in NCHW. Batch norm is an operation of its own, RoIAlign is
  torchvision's; what was computed for earlier frames is computed again: the geometry of all pairs of boxes of the window (BasicDet, UltraDet,
  whose flow images are also kept at full size and pooled for each pair), FlowNet, warping and embedding of the whole window (FGFA), the fusion
  of all 16 frames, of which one is kept (PTSEFormer).
- ``eager``: `prepare_for_inference` in float32.
- ``bf16``: the same with precision="bfloat16".
- ``compiled``: the same in float32, compiled to one graph for each phase, which takes minutes a model.

A ratio is the median over the turns of the plain form's median divided by the form's. ``cpu`` is the same of the processor's time,
which other processes on the machine disturb less. ``--onnx`` tries to export
the step to ONNX and says how that ended; it is not run, so nothing is measured by onnxruntime.
"""

# ruff: noqa: ARG002 - the plain parts have the signatures of those that they replace

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from ultravid.config import LazyConfig, get_config, instantiate
from ultravid.layers import Conv2d, geometry_embedding
from ultravid.modeling import FlowNet, TokenMixer, VideoDetector, prepare_for_inference
from ultravid.modeling.backbone import resnet
from ultravid.modeling.feature_context import FeatureContext
from ultravid.modeling.flow.warp import warp_maps
from ultravid.modeling.inference import CompileError
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.modeling.roi import RoIPooler
from ultravid.modeling.types import FrameTokens, Pool, State

WINDOW = 16
FRAMES_A_TURN = 8  # one of them is a key frame of UltraDet

# --- the yardstick


def plain_conv(self: Conv2d, x: Tensor) -> Tensor:
    x = self._conv_forward(x, self.weight, self.bias)
    x = x if self.norm is None else self.norm(x)
    return x if self.activation is None else self.activation(x)


def plain_pooled(self: RoIPooler, feature_maps: Tensor, boxes: Tensor) -> Tensor:
    pooler = self.box_pooler
    frame = torch.arange(len(boxes), dtype=boxes.dtype)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat((frame, boxes), dim=-1).flatten(0, 1)
    size, ratio = pooler.output_size, pooler.sampling_ratio
    return roi_align(feature_maps.contiguous(), rois, size, pooler.spatial_scale, ratio, pooler.aligned)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    with (
        mock.patch.object(Conv2d, "forward", plain_conv),
        mock.patch.object(RoIPooler, "_pooled", plain_pooled),
        mock.patch.object(resnet, "to_fast_layout", lambda x, _: x.contiguous()),
    ):
        yield


def plain_relation(
    layers: Sequence[nn.Module], tokens: Tensor, boxes: Tensor, wavelengths: Tensor, before: Callable
) -> Tensor:
    """All layers over all boxes ``(K, D)`` of the window; ``before`` is what comes before a layer."""
    geometry = geometry_embedding(boxes, boxes, wavelengths)
    for index, layer in enumerate(layers):
        tokens = before(index, tokens)
        q, k, v = (
            F.relu(f(tokens)).unflatten(-1, (layer.num_heads, -1)).transpose(0, 1)
            for f in (layer.linear_q, layer.linear_k, layer.linear_v)
        )
        weight = F.relu(layer.geo_trans(geometry)).permute(2, 0, 1)
        score = torch.log(weight + 1e-6) + q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        tokens = tokens + F.relu(layer.linear_o((score.softmax(-1) @ v).transpose(0, 1).flatten(1)))
    return tokens


class PlainWindow(TokenMixer):
    """BasicDet's relation over the whole window, computed anew for each frame."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        return {"frames": []}

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        raise NotImplementedError

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        frames = [*state["frames"], (frame.tokens, frame.boxes)][-WINDOW:]
        tokens, boxes = (torch.cat(each) for each in zip(*frames, strict=True))
        relation = self.part.relation
        related = plain_relation(relation.layers, tokens, boxes, relation.div_mat, lambda _, x: x)
        return related[-len(frame.tokens) :], {"frames": frames}


class PlainUltraDet(PlainWindow):
    """UltraDet's published step: flow images at full size, pooled for each pair, and the relation of the whole window anew."""

    num_phases = 2

    def phase(self, frame_number: int) -> int:
        return self.part.phase(frame_number)

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        return {"frames": [], "keys": []}

    def context(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], pool: Pool) -> list[Tensor]:
        """Tokens of boxes on maps that were warped to their frames, of (image, boxes, key image, key map)."""
        found = []
        for image, boxes, key_image, key_map in pairs:
            reduce = self.part.warp.estimator.reduce
            warped = self.part.warp(key_map[None], reduce(image[None]), reduce(key_image[None]))
            found.append(pool(warped, boxes[None])[0])
        return found

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        keys, frames = state["keys"], state["frames"]
        if phase:
            keys = [*keys, (frame.image, frame.feature_map)][-self.part.num_contexts :]
            pairs = [(image, boxes, frame.image, frame.feature_map) for image, _, boxes, _ in frames]
            added = self.context(pairs, pool)
            frames = [(i, t, b, [*c, a][-len(keys) :]) for (i, t, b, c), a in zip(frames, added, strict=True)]
        own = self.context([(frame.image, frame.boxes, image, kept) for image, kept in keys], pool)
        frames = [*frames, (frame.image, frame.tokens, frame.boxes, own)][-WINDOW:]
        tokens, boxes = torch.cat([f[1] for f in frames]), torch.cat([f[2] for f in frames])
        contexts = torch.cat([torch.stack(f[3]) for f in frames], dim=1)
        valid = torch.ones(len(contexts), dtype=torch.bool)

        def attend(index: int, x: Tensor) -> Tensor:
            return self.part.context_layers[index](x, contexts, valid)

        relation = self.part.relation
        related = plain_relation(relation.layers, tokens, boxes, relation.div_mat, attend)
        return related[-len(frame.tokens) :], {"frames": frames, "keys": keys}


class PlainFGFA(FeatureContext):
    """FGFA's published step: FlowNet on every pair, whose flow is thrown away; each map of the window is warped and embedded anew."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.flownet = FlowNet()

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        return {"frames": []}

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        frames = [*state["frames"], (image, feature_map)][-WINDOW:]
        others, maps = (torch.cat(each) for each in zip(*frames, strict=True))
        reduce = self.flownet.reduce
        self.flownet(reduce(image.expand_as(others)), reduce(others))
        warped = warp_maps(maps, maps.new_zeros(len(maps), 2, *maps.shape[-2:]), True)
        embedded, current = self.part.embedding(warped), self.part.embedding(feature_map)
        embedded, current = (e / (e.norm(dim=1, keepdim=True) + 1e-10) for e in (embedded, current))
        weights = (embedded * current).sum(dim=1, keepdim=True).softmax(dim=0)
        return (weights * warped).sum(dim=0, keepdim=True), {"frames": frames}


class PlainPTSEFormer(FeatureContext):
    """PTSEFormer's published step: all frames of the window are fused, and the last one is kept."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        return {"ring": self.part.initial_state(image_size, device), "maps": []}

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        maps = [*state["maps"], feature_map][-WINDOW:]
        for current in maps:
            fused, ring = self.part.step(current, image, state["ring"])
        return fused, {"ring": ring, "maps": maps}


PLAIN_PARTS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "BasicDet": ("token_mixer", PlainWindow),
    "UltraDet": ("token_mixer", PlainUltraDet),
    "FGFA": ("feature_context", PlainFGFA),
    "PTSEFormer": ("memory_context", PlainPTSEFormer),
}

# --- forms of a model


class Form:
    """A form of a model, and the times of its frames."""

    def __init__(self, model: VideoDetector, size: int, plain: bool = False) -> None:
        self.model = model
        self.is_plain = plain
        self.number = 0
        self.state = model.initial_state((size, size))
        self.turns: list[list[tuple[float, float]]] = []

    @torch.no_grad()
    def run(self, frames: Sequence[Tensor]) -> None:
        """One turn."""
        times = []
        with plain_operations() if self.is_plain else contextlib.nullcontext():
            for frame in frames:
                wall, cpu = time.perf_counter(), time.process_time()
                _, self.state = self.model.step(frame, self.state, self.model.phase(self.number))
                times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
                self.number += 1
        self.turns.append(times)

    def medians(self, which: int) -> list[float]:
        """Of each turn, wall (0) or CPU (1) milliseconds."""
        return [statistics.median(t[which] for t in turn) for turn in self.turns]

    def row(self, plain: "Form") -> list[str]:
        """Columns of the table."""
        wall = [t[0] for turn in self.turns for t in turn]
        numbers = [
            statistics.median(wall),
            float(np.quantile(wall, 0.95)),
            max(wall),
            statistics.median(self.medians(1)),
        ]
        ratios = [
            statistics.median(p / own for p, own in zip(plain.medians(w), self.medians(w), strict=True)) for w in (0, 1)
        ]
        return [*(f"{n:.1f}" for n in numbers), *(f"{r:.2f}" for r in ratios)]


def published_model(name: str, depth: int) -> VideoDetector:
    """A published model at full size with random weights, in evaluation mode."""
    published = PUBLISHED_MODELS[name]
    config = get_config(published.config)
    config.model.backbone.depth = depth
    config = LazyConfig.apply_overrides(config, [f"model.{o.removeprefix('model.')}" for o in published.overrides])
    torch.manual_seed(0)
    model: VideoDetector = instantiate(config.model)
    return model.eval()


def forms_of(name: str, args: argparse.Namespace) -> tuple[dict[str, Form], list[str]]:
    """The forms of a model by name, the plain one first, and what is said of those that there are not."""
    model, warnings = published_model(name, args.depth), []
    plain = published_model(name, args.depth)
    if name in PLAIN_PARTS:
        attribute, make = PLAIN_PARTS[name]
        setattr(plain, attribute, make(getattr(plain, attribute)))
    forms = {"plain": Form(plain, args.size, plain=True)}
    options = {"eager": {}, "bf16": {"precision": "bfloat16"}, "compiled": {"compile": True}}
    for form in args.forms:
        try:
            forms[form] = Form(prepare_for_inference(model, (args.size, args.size), **options[form]), args.size)
        except CompileError as error:
            warnings.append(f"{name}, {form}: {error}")
    if args.onnx:
        warnings.append(f"{name}, onnxruntime: not measured; export to ONNX: {exported(model, args.size)}")
    return forms, warnings


def exported(model: VideoDetector, size: int) -> str:
    """How the export of a step to ONNX ended."""
    image, state = torch.zeros(3, size, size), model.initial_state((size, size))
    try:
        program = torch.export.export(_Step(model), (image, state))
        torch.onnx.export(program, dynamo=True)
    except Exception as error:
        return f"fails with {type(error).__name__}: {str(error).splitlines()[0]}"
    return "works"


class _Step(nn.Module):
    def __init__(self, model: VideoDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, state: State) -> tuple[tuple[Tensor, ...], State]:
        detections, state = self.model.step(image, state)
        return tuple(detections), state


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED_MODELS), choices=list(PUBLISHED_MODELS))
    parser.add_argument("--size", type=int, default=512, help="side of the square frames in pixels")
    parser.add_argument("--depth", type=int, default=34, choices=(18, 34))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=["eager"], choices=("eager", "bf16", "compiled"))
    parser.add_argument("--onnx", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    draw = torch.Generator().manual_seed(0)
    frames = [torch.rand(3, args.size, args.size, generator=draw) * 255 for _ in range(FRAMES_A_TURN)]
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(
        title=f"ms a frame, {args.size} px, ResNet-{args.depth}, {args.threads} threads, {args.turns} turns of {len(frames)} frames"
    )
    for column in ("model", "form", "p50", "p95", "worst", "cpu", "ratio", "ratio of cpu"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for name in args.models:
        forms, warnings = forms_of(name, args)
        for form in forms.values():  # the windows are full after two turns
            form.run(frames)
            form.run(frames)
            form.turns.clear()
        for _ in range(args.turns):
            for form in forms.values():
                form.run(frames)
        for form_name, form in forms.items():
            row = form.row(forms["plain"])
            table.add_row(name, form_name, *row)
            console.print(name, form_name, *row)
        for warning in warnings:
            console.print(warning)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
