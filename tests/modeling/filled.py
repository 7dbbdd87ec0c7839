"""Weights and frames made by rule, so that a recorded detection can be repeated without storing a model.

Every number comes from a stream of PCG64 whose seed is the sha256 of a name; all arithmetic but the last rounding is on
integers or single operations of double precision, so the bits are the same on every machine. The rule is the one under
which the detections of UltraDet's published code were recorded; `digest` shows that nothing differs.
"""

import hashlib
import re

import numpy as np
import torch

SEED = 20240611
KEPT = re.compile(r"(pixel_mean|pixel_std|div_mat)$")


def raw_words(text, count):
    return np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")).random_raw(count)


def uniform(words, low, high):
    return low + (high - low) * ((words >> np.uint64(11)).astype(np.float64) / 2.0**53)


def weight(name, shape):
    """Value of one entry of a state dict."""
    words = raw_words(f"{SEED}:{name}", int(np.prod(shape, dtype=np.int64)))
    if len(shape) >= 2:  # a sum of four 16-bit lanes, centred a row: nearly normal
        lanes = sum(((words >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.int64) for s in (0, 16, 32, 48)) - 131070
        lanes = lanes.reshape(shape[0], -1)
        fan_in = lanes.shape[1]
        centred = lanes * fan_in - lanes.sum(axis=1, keepdims=True)
        gain = 0.5 if re.search(r"res\d\.\d+\.conv2\.weight$", name) else 0.2 if "anchor_deltas" in name else 1.0
        std = float(np.sqrt((2.0**32 - 1.0) / 3.0))
        value = centred / (fan_in * std) * (gain * np.sqrt(2.0 / float(fan_in)))
    elif name.endswith("running_mean"):
        lanes = sum(((words >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.int64) for s in (0, 16, 32, 48)) - 131070
        value = lanes / float(np.sqrt((2.0**32 - 1.0) / 3.0)) * 0.05
    elif name.endswith(("running_var", "weight")):
        value = uniform(words, 0.8, 1.2)
    else:
        value = uniform(words, -0.05, 0.05) + (1.5 if name.endswith("geo_trans.bias") else 0.0)
    return torch.from_numpy(np.ascontiguousarray(value.reshape(shape).astype(np.float32)))


def state_dict(like, score_scale, score_shift):
    """Filled weights for every entry of a state dict; the last layer is scaled so that scores spread around 0.5."""
    filled = {name: value.clone() if KEPT.search(name) else weight(name, value.shape) for name, value in like.items()}
    classifier = "roi_heads.box_predictor.cls_score."
    filled[classifier + "weight"] = filled[classifier + "weight"] * torch.tensor(score_scale)
    filled[classifier + "bias"] = filled[classifier + "bias"] + torch.tensor([score_shift, -score_shift])
    return filled


def digest(items):
    """sha256 over names and arrays in order."""
    total = hashlib.sha256()
    for name, value in items:
        array = np.ascontiguousarray(value.numpy() if isinstance(value, torch.Tensor) else value)
        total.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _smoothed(values, radius):
    """Sum over a window with the edge repeated; integers, so exact."""
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(values, width, mode="edge"), axis=axis)
        n, side = values.shape[axis], 2 * radius + 1
        values = np.take(total, range(side, side + n), axis) - np.take(total, range(n), axis)
    return values


def frames(number, count, height, width):
    """``(count, 3, height, width)`` uint8: drifting speckle and dark ellipses that bounce."""
    stream = np.random.PCG64(int.from_bytes(hashlib.sha256(f"frames:{1000 * SEED + number}".encode()).digest(), "big"))

    def draw(low, high):
        return float(uniform(stream.random_raw(1), low, high)[0])

    def noise(h, w, radius):
        integers = (stream.random_raw(h * w).reshape(h, w) >> np.uint64(48)).astype(np.int64) - 32768
        return _smoothed(integers, radius) / (18918.0 * (2 * radius + 1))

    fine, coarse = noise(2 * height, 2 * width, 1), noise(2 * height, 2 * width, 5)
    base, amplitude, ramp = draw(90, 130), draw(18, 30), draw(-30, 30)
    step_x, step_y = int(draw(-3, 4)), int(draw(-2, 3))
    ellipses = []
    for _ in range(2 + int(draw(0, 3))):
        x, y = draw(0.15, 0.85) * width, draw(0.15, 0.85) * height
        speed = draw(-9, 9), draw(-7, 7)
        axes = draw(0.05, 0.16) * width, draw(0.05, 0.16) * height
        ellipses.append((x, y, speed, axes, draw(35, 80), draw(10, 40)))
    row, column = (
        np.arange(height, dtype=np.float64)[:, None],
        np.arange(width, dtype=np.float64)[None, :],
    )

    def bounce(value, low, high):
        t = (value - low) % (2.0 * (high - low))
        return low + (t if t <= high - low else 2.0 * (high - low) - t)

    out = np.empty((count, 3, height, width), np.uint8)
    for t in range(count):
        top, left = (height // 2 + step_y * t) % height, (width // 2 + step_x * t) % width
        view = slice(top, top + height), slice(left, left + width)
        image = base + ramp * (row / height - 0.5) + np.zeros((height, width))
        image = image + amplitude * fine[view] + 0.7 * amplitude * coarse[view]
        for x, y, speed, axes, dark, rim in ellipses:
            cx = bounce(x + speed[0] * t, 0.1 * width, 0.9 * width)
            cy = bounce(y + speed[1] * t, 0.1 * height, 0.9 * height)
            q = (column - cx) * (column - cx) / (axes[0] * axes[0]) + (row - cy) * (row - cy) / (axes[1] * axes[1])
            image = image - dark * np.clip(1.3 - q, 0.0, 1.0)
            image = image + rim * np.clip(1.0 - np.abs(q - 1.6) * 2.0, 0.0, 1.0) * (row > cy)
        image = image + 4.0 * noise(height, width, 0)
        out[t] = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)[None]
    return out
