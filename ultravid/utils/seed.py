"""Seeds of a run and of each of its steps."""

from __future__ import annotations

import logging
import os
import random
from typing import Any

import numpy as np
import torch

__all__ = ["generator_states", "restore_generators", "seed_all_rng", "seed_step"]

logger = logging.getLogger(__name__)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed python, numpy and torch (all devices), for random numbers that are drawn while a run is built.

    Args:
        seed: None draws one and logs it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logger.info("Seeded with %d, drawn at random.", seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # users' code and libraries use the global generator
    torch.manual_seed(seed)


def generator_states(*, torch_too: bool = True) -> dict[str, Any]:
    """The states of python's and numpy's global generators and, with ``torch_too``, of torch's; as tensors and plain data."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global generator, which a model may use
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }
    if torch_too:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Set the generators to the states that `generator_states` returned."""
    if "python" in states:
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(numbers), gauss))
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's generators for one step, so that the step is a function of (seed, iteration, rank).

    Python's and numpy's global generators are left alone: a model that uses them is not repeated exactly.

    The generators are seeded directly: `torch.manual_seed` takes a hundred times as long, as it goes through every kind of
    device.
    """
    # Distinct for every rank below 4,096 and iteration below 2**40; splitmix64 spreads them (Steele et al., OOPSLA 2014).
    state = (seed * 0x9E3779B97F4A7C15 + (iteration << 12) + rank) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    state ^= state >> 31
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(state)
