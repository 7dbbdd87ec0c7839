"""A user's own augmentation, which draws from the global generators as torchvision's transforms do."""

import dataclasses
import random

import numpy as np
import torch


class RandomLevels:
    """Shifts the grey levels of a clip by what each of the three generators draws."""

    def __call__(self, clip, rng):
        shift = 20 * random.random() + 20 * np.random.rand() + 20 * float(torch.rand(()))  # noqa: NPY002
        return dataclasses.replace(clip, frames=(clip.frames.float() + shift).clamp(0, 255).to(torch.uint8))
