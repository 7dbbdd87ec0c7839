"""Small models with random weights under which they detect something, and videos and clips to run them on."""

import numpy as np
import torch
from torch import nn

from tests.conftest import ROOT
from ultravid.config import Node, get_config, instantiate
from ultravid.config.tree import raw_children, walk
from ultravid.modeling.detector import VideoDetector
from ultravid.structures import Boxes, Clip, Instances

SMALL = sorted(p.stem.removesuffix("_small") for p in (ROOT / "configs_py/common/models").glob("*_small.py"))
"""Names of the models that have a small config."""


def describe(name: str, **values: object) -> Node:
    """The small config of a model, with values in place of those that arguments of these names have, wherever they stand in it."""
    model = get_config(f"common/models/{name}_small.py").model
    for node in [model, *walk(model)]:
        for key in values.keys() & (dict(raw_children(node)) if isinstance(node, Node) else {}):
            if key != "context_frames" or node[key]:  # what sees no other frame stays so
                node[key] = values[key]
    return model


def forms(name: str) -> list[bool | None]:
    """The values of ``causal`` with which a model differs from its config; None, the config as it is, comes first."""
    shipped = describe(name)
    return [None, *(value for value in (True, False) if describe(name, causal=value) != shipped)]


def random_model(name: str, seed: int = 0, **values: object) -> VideoDetector:
    """A small model in evaluation mode, with weights of a trained one's size, so that scores spread and detections depend on the image.

    Args:
        name: of the model.
        seed: seed of the weights.
        values: as of `describe`; None leaves what the config has.
    """
    torch.manual_seed(seed)
    model: VideoDetector = instantiate(describe(name, **{k: v for k, v in values.items() if v is not None}))
    randomize(model, seed)
    return model.eval()


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw the weights of convolutions and linear layers for a constant variance; initial biases against detections go."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight.ndim >= 2:
                    fan_in = weight[0].numel()
                    weight.copy_(torch.randn(weight.shape, generator=draw) * fan_in**-0.5)
                elif name.endswith("bias") and not isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
                    weight.copy_(torch.rand(weight.shape, generator=draw) * 0.1 - 0.05)


def deterministic_model(name: str, **values: object) -> VideoDetector:
    """A small model in training mode that draws nothing: norms are frozen, and sampling takes everything that there is."""
    everything = {"batch_size_per_image": 100_000, "num_samples": 100_000, "positive_fraction": 1.0, "num_drawn": 16}
    model = random_model(name, **{**everything, "gt_jitter": 0.0, "context_stride": 1, **values}).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
    return model


def video(seed: int, length: int, height: int, width: int) -> torch.Tensor:
    """``(T, 3, H, W)`` uint8: smooth noise with a dark disc that moves."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(120, 40, (length, 1, max(2, height // 4), max(2, width // 4))))
    frames = nn.functional.interpolate(noise, (height, width), mode="bilinear")
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    for t in range(length):
        distance = ((row - height / 2 - t) ** 2 + (column - width / 3 - 2 * t) ** 2) ** 0.5
        frames[t] -= 70 * (distance < height / 5)
    return frames.clamp(0, 255).to(torch.uint8).expand(length, 3, height, width).contiguous()


def clip(seed: int, length: int, height: int, width: int, boxes: int | list[int] = 1, num_memory: int = 0) -> Clip:
    """A clip with so many boxes in each of its frames."""
    rng = np.random.default_rng(seed)
    instances = []
    for t in range(length):
        count = boxes if isinstance(boxes, int) else boxes[t]
        corner = rng.uniform(0, 0.5, (count, 2)) * (width, height)
        size = rng.uniform(0.15, 0.45, (count, 2)) * (width, height)
        classes = torch.zeros(count, dtype=torch.int64)
        found = Boxes(np.concatenate((corner, corner + size), axis=1).reshape(-1, 4))
        instances.append(Instances((height, width), gt_boxes=found, gt_classes=classes, gt_ids=torch.arange(count)))
    return Clip(
        video(seed, length, height, width), instances, ["v"] * length, list(range(length)), num_memory=num_memory
    )
