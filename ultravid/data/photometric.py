"""Augmentation of grey levels, on any device: differences between scanners and their settings, drawn once per clip.

Grey levels are 0 to 255. All random numbers, the noise too, are drawn from the given generator on the CPU, so that a clip is the
same on every device up to rounding. uint8 frames stay uint8, rounded to the nearest level; float frames stay float.

Legend: ``T`` frames, ``C`` channels, ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ultravid.data.pixels import apply_levels, has_one_plane, on_planes
from ultravid.structures import Clip

__all__ = ["RandomContrast", "RandomDepthGain", "RandomGamma", "RandomSpeckle"]

Range = tuple[float, float]

_OFFSETS = 64  # px: two of sixteen frames get the same offset once in 35 clips


class RandomContrast:
    """``v -> mean + factor (v - mean)``, clamped; ``mean`` is over all pixels of the clip.

    Unlike `RandomColor`, it keeps differences of brightness between the frames of a clip.

    Args:
        factor: range of the factor, drawn uniformly; 1 changes nothing.

    Raises:
        ValueError: the range is not (low, high), or goes below 0.
    """

    def __init__(self, *, factor: Range = (0.7, 1.3)) -> None:
        self.factor = _checked("factor", factor, 0)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws one number from ``rng``."""
        factor = rng.uniform(*self.factor)
        planes = clip.frames[:, :1] if has_one_plane(clip.frames) else clip.frames
        # Integers are summed exactly, in any order.
        mean = float(planes.sum(dtype=torch.float64 if planes.is_floating_point() else torch.int64)) / planes.numel()
        return _map_levels(clip, lambda v: mean + factor * (v - mean))


class RandomGamma:
    """``v -> 255 (v / 255) ** gamma``: a gamma below 1 brightens dark tissue, one above 1 darkens it; black and white stay.

    Args:
        gamma: range of the exponent, drawn uniformly on a logarithmic scale; 1 changes nothing.

    Raises:
        ValueError: the range is not (low, high), or goes to 0 or below.
    """

    def __init__(self, *, gamma: Range = (0.7, 1.4)) -> None:
        self.gamma = _checked("gamma", gamma, 1e-3)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws one number from ``rng``."""
        gamma = math.exp(rng.uniform(*np.log(self.gamma)))
        return _map_levels(clip, lambda v: 255 * (v.clamp(min=0) / 255) ** gamma)


class RandomDepthGain:
    """Gain that differs with depth, as set by the sliders of time-gain compensation.

    ``num_sliders`` sliders are at equal distances from the top row to the bottom row; each is drawn uniformly from
    ``[-max_db, max_db]``, and the gain of a row is interpolated linearly between its two sliders. Levels are log-compressed echoes,
    ``dynamic_range_db`` from black to white, so a gain of g dB adds ``255 g / dynamic_range_db`` levels, rounded to the
    nearest. Black pixels are below the range or outside the scan, and stay black.

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

    def gain_db(self, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """The gain of each row, ``(height,)`` in decibels, from ``num_sliders`` numbers that are drawn from ``rng``."""
        sliders = rng.uniform(-self.max_db, self.max_db, self.num_sliders)
        return np.interp(np.linspace(0, self.num_sliders - 1, height), np.arange(self.num_sliders), sliders)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws ``num_sliders`` numbers from ``rng``."""
        levels = np.rint(self.gain_db(clip.frames.shape[-2], rng) * 255 / self.dynamic_range_db)
        return _map_frames(clip, _AddToRows(levels))


class RandomSpeckle:
    """Multiplicative noise: ``v -> v (1 + sd n)``, clamped, with ``n`` standard normal for each pixel, the same in all channels.

    One field of normal numbers, 64 px higher and wider than a frame, is drawn per clip; each frame uses a part of it at its own
    random offset, so that frames differ in their noise.

    Args:
        sd: range of the standard deviation, drawn uniformly; 0 changes nothing.

    Raises:
        ValueError: the range is not (low, high), or goes below 0.
    """

    def __init__(self, *, sd: Range = (0.0, 0.15)) -> None:
        self.sd = _checked("sd", sd, 0)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws from ``rng`` one number, two for each frame, and one for each pixel of the field."""
        height, width = clip.frames.shape[-2:]
        sd = rng.uniform(*self.sd)
        offsets = rng.integers(_OFFSETS + 1, size=(len(clip), 2))
        field = rng.standard_normal((height + _OFFSETS, width + _OFFSETS), np.float32)
        field *= np.float32(sd)
        field += 1
        return _map_frames(clip, _MultiplyParts(field, offsets))


def _checked(name: str, value: Range, low: float) -> Range:
    if len(value) != 2 or not low <= value[0] <= value[1] < math.inf:
        raise ValueError(f"{name}={value!r} is not a range (low, high) of numbers from {low:g}.")
    return float(value[0]), float(value[1])


def _map_levels(clip: Clip, change: Callable[[Tensor], Tensor]) -> Clip:
    """The clip with each grey level changed by a function of the level."""
    frames = clip.frames
    if frames.dtype == torch.uint8:
        levels = change(torch.arange(256, dtype=torch.float64)).round().clamp(0, 255).to(torch.uint8)
        return dataclasses.replace(clip, frames=apply_levels(frames, levels))
    return dataclasses.replace(clip, frames=on_planes(frames, lambda f: change(f).clamp(0, 255)))


class _FrameChange(Protocol):
    """Changes frame ``t`` of a clip."""

    def on_tensor(self, frame: Tensor, t: int) -> Tensor:
        """Change ``(C, H, W)`` float levels on any device; neither rounded nor clamped."""

    def on_plane(self, plane: NDArray[np.uint8], t: int, result: NDArray[np.uint8]) -> None:
        """Change a channel ``(H, W)``, rounded and clamped, by OpenCV: takes a fifth of the time on the CPU."""


class _AddToRows:
    """Adds whole levels to the rows, except to black pixels."""

    def __init__(self, levels: NDArray[np.float64]) -> None:
        self.levels = levels
        self._on_device: Tensor | None = None
        self._parts: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def on_tensor(self, frame: Tensor, t: int) -> Tensor:
        del t
        if self._on_device is None:
            self._on_device = torch.from_numpy(self.levels.astype(np.float32)).to(frame.device)[:, None]
        return torch.where(frame > 0, frame + self._on_device, frame)

    def on_plane(self, plane: NDArray[np.uint8], t: int, result: NDArray[np.uint8]) -> None:
        del t
        if self._parts is None:  # positive and negative levels as images of the frame's size
            rows = np.repeat(self.levels[:, None], plane.shape[1], axis=1)
            self._parts = (rows.clip(0, 255).astype(np.uint8), (-rows).clip(0, 255).astype(np.uint8))
        result.fill(0)
        cv2.add(plane, self._parts[0], dst=result, mask=plane)
        cv2.subtract(result, self._parts[1], dst=result)


class _MultiplyParts:
    """Multiplies each frame by a part of a field larger than it, at the frame's own offset ``(down, across)``."""

    def __init__(self, field: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
        self.field = field
        self.offsets = offsets
        self._on_device: Tensor | None = None

    def _part(self, t: int, height: int, width: int) -> tuple[slice, slice]:
        down, across = (int(v) for v in self.offsets[t])
        return slice(down, down + height), slice(across, across + width)

    def on_tensor(self, frame: Tensor, t: int) -> Tensor:
        if self._on_device is None:
            self._on_device = torch.from_numpy(self.field).to(frame.device)
        return frame * self._on_device[self._part(t, frame.shape[-2], frame.shape[-1])]

    def on_plane(self, plane: NDArray[np.uint8], t: int, result: NDArray[np.uint8]) -> None:
        cv2.multiply(plane, self.field[self._part(t, plane.shape[0], plane.shape[1])], dst=result, dtype=cv2.CV_8U)


def _map_frames(clip: Clip, change: _FrameChange) -> Clip:
    """The clip with each frame changed, one after the other, to stay in the cache; uint8 is rounded to the nearest level."""

    def on_any_device(frames: Tensor) -> Tensor:
        result = torch.empty_like(frames)
        for t, frame in enumerate(frames):
            levels = change.on_tensor(frame if frame.is_floating_point() else frame.float(), t).clamp(0, 255)
            result[t] = levels if frame.is_floating_point() else levels.round_()
        return result

    def on_cpu(frames: Tensor) -> Tensor:
        result = torch.empty(frames.shape, dtype=torch.uint8)
        for t, (frame, changed) in enumerate(zip(frames.numpy(), result.numpy(), strict=True)):
            for plane, changed_plane in zip(frame, changed, strict=True):
                change.on_plane(plane, t, changed_plane)
        return result

    fast = clip.frames.dtype == torch.uint8 and clip.frames.device.type == "cpu"
    return dataclasses.replace(clip, frames=on_planes(clip.frames, on_cpu if fast else on_any_device))
