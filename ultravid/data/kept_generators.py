"""A warning about parts that keep a random generator from one sample to the next, which a run can't seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

__all__ = ["warn_of_kept_generators"]

logger = logging.getLogger(__name__)

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_DEPTH = 4


def warn_of_kept_generators(**parts: Any) -> None:
    """Log a warning for each generator that a transform, a sampler or a mapper holds in its attributes.

    Each worker of a loader would have its own copy, and a resumed run would start it again.

    Args:
        parts: by the name of the argument that they are.
    """
    for name, part in parts.items():
        for place in _places(part, name, _DEPTH, set()):
            logger.warning(
                "%s is a random generator that is kept from sample to sample: its numbers depend on the number of workers, and a "
                "resumed run draws them again. Draw from the given rng, or from random, np.random or torch, which are seeded "
                "for each sample.",
                place,
            )


def _places(value: Any, place: str, depth: int, seen: set[int]) -> Iterator[str]:
    """Where a value holds generators."""
    if isinstance(value, _GENERATORS):
        yield place
        return
    if depth == 0 or id(value) in seen or isinstance(value, type | ModuleType):
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        inside = [(item, f"{place}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, Mapping):
        inside = [(item, f"{place}[{key!r}]") for key, item in value.items()]
    else:
        inside = [(item, f"{place}.{key}") for key, item in getattr(value, "__dict__", {}).items()]
    for item, where in inside:
        yield from _places(item, where, depth - 1, seen)
