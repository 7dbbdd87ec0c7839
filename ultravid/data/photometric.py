"""Augmentation of grey levels, on any device: what scanners and their settings change, one draw a clip.

Grey levels are 0 to 255. Everything random is drawn from the given generator on the CPU, the noise too, so that a clip is the
same on every device but for rounding. uint8 frames stay uint8, rounded to the nearest level; float frames stay float.

Legend: ``T`` frames, ``C`` channels, ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ultravid.data.pixels import apply_levels, has_one_plane, on_planes
from ultravid.structures import Clip

__all__ = ["RandomContrast", "RandomDepthGain", "RandomGamma", "RandomSpeckle"]

Range = tuple[float, float]


class RandomContrast:
    """``v -> mean + factor (v - mean)``, clamped; ``mean`` is that of the clip's pixels.

    Unlike `RandomColor` it keeps the relation of brightness between the frames of a clip.

    Args:
        factor: range of the factor, drawn uniformly; 1 changes nothing.

    Raises:
        ValueError: the range is none, or goes below 0.
    """

    def __init__(self, *, factor: Range = (0.7, 1.3)) -> None:
        self.factor = _checked("factor", factor, 0)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number."""
        factor = rng.uniform(*self.factor)
        planes = clip.frames[:, :1] if has_one_plane(clip.frames) else clip.frames
        # Whole numbers are summed exactly, in any order.
        mean = float(planes.sum(dtype=torch.float64 if planes.is_floating_point() else torch.int64)) / planes.numel()
        return _map_levels(clip, lambda v: mean + factor * (v - mean))


class RandomGamma:
    """``v -> 255 (v / 255) ** gamma``: below 1 lifts dark tissue, above 1 sinks it; black and white stay.

    Args:
        gamma: range of the exponent, drawn uniformly on a logarithmic scale; 1 changes nothing.

    Raises:
        ValueError: the range is none, or does not stay above 0.
    """

    def __init__(self, *, gamma: Range = (0.7, 1.4)) -> None:
        self.gamma = _checked("gamma", gamma, 1e-3)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number."""
        gamma = math.exp(rng.uniform(*np.log(self.gamma)))
        return _map_levels(clip, lambda v: 255 * (v.clamp(min=0) / 255) ** gamma)


class RandomDepthGain:
    """Gain that differs with depth, as the sliders of time-gain compensation set it.

    ``num_sliders`` sliders stand at equal distances from the top row to the bottom row; each is drawn uniformly from
    ``[-max_db, max_db]``, and the gain of a row lies on the straight line between its two sliders. Levels are log-compressed
    echoes, ``dynamic_range_db`` from black to white, so a gain of g dB adds ``255 g / dynamic_range_db`` levels. Black is what
    lies below the range, or outside the scan: it stays black.

    Args:
        max_db: decibels.
        num_sliders: at least 2; scanners have 6 to 8.
        dynamic_range_db: decibels.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, *, max_db: float = 4.0, num_sliders: int = 8, dynamic_range_db: float = 60.0) -> None:
        if max_db < 0 or num_sliders < 2 or dynamic_range_db <= 0:
            raise ValueError(
                f"max_db={max_db} must not be negative, num_sliders={num_sliders} at least 2 and "
                f"dynamic_range_db={dynamic_range_db} above 0."
            )
        self.max_db = max_db
        self.num_sliders = num_sliders
        self.dynamic_range_db = dynamic_range_db

    def gain_db(self, height: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """``(height,)`` decibels of each row."""
        sliders = rng.uniform(-self.max_db, self.max_db, self.num_sliders)
        return np.interp(np.linspace(0, self.num_sliders - 1, height), np.arange(self.num_sliders), sliders)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws ``num_sliders`` numbers."""
        levels = self.gain_db(clip.frames.shape[-2], rng) * 255 / self.dynamic_range_db
        added = torch.from_numpy(levels.astype(np.float32)).to(clip.frames.device)[:, None]
        return _map_frames(clip, lambda frame, _: torch.where(frame > 0, frame + added, frame))


class RandomSpeckle:
    """Multiplicative noise: ``v -> v (1 + sd n)``, clamped, with ``n`` standard normal for each pixel, the same in all channels.

    A field of ``H x W`` normal numbers is drawn for a clip; each frame takes it shifted by an offset of its own, round the
    edges, so that the noise of one frame tells nothing of the next one's.

    Args:
        sd: range of the standard deviation, drawn uniformly; 0 changes nothing.

    Raises:
        ValueError: the range is none, or goes below 0.
    """

    def __init__(self, *, sd: Range = (0.0, 0.15)) -> None:
        self.sd = _checked("sd", sd, 0)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number, two for each frame, and one for each pixel of a frame."""
        height, width = clip.frames.shape[-2:]
        sd = rng.uniform(*self.sd)
        shifts = rng.integers((height, width), size=(len(clip), 2)).tolist()
        field = torch.from_numpy(rng.standard_normal((height, width), np.float32)).to(clip.frames.device)
        factors = field.mul_(sd).add_(1)
        return _map_frames(clip, lambda frame, t: frame * factors.roll(shifts[t], dims=(0, 1)))


def _checked(name: str, value: Range, low: float) -> Range:
    if len(value) != 2 or not low <= value[0] <= value[1] < math.inf:
        raise ValueError(f"{name}={value!r} is no range (low, high) of numbers from {low:g}.")
    return float(value[0]), float(value[1])


def _map_levels(clip: Clip, change: Callable[[Tensor], Tensor]) -> Clip:
    """Each grey level changed by a function of it alone."""
    frames = clip.frames
    if frames.dtype == torch.uint8:
        levels = change(torch.arange(256, dtype=torch.float64)).round().clamp(0, 255).to(torch.uint8)
        return dataclasses.replace(clip, frames=apply_levels(frames, levels))
    return dataclasses.replace(clip, frames=on_planes(frames, lambda f: change(f).clamp(0, 255)))


def _map_frames(clip: Clip, change: Callable[[Tensor, int], Tensor]) -> Clip:
    """Each frame changed by a function of it, as float, and its number; one after the other, to stay in the cache."""

    def changed(frames: Tensor) -> Tensor:
        result = torch.empty_like(frames)
        for t, frame in enumerate(frames):
            levels = change(frame if frame.is_floating_point() else frame.float(), t).clamp(0, 255)
            result[t] = levels if frame.is_floating_point() else levels.round_()
        return result

    return dataclasses.replace(clip, frames=on_planes(clip.frames, changed))
