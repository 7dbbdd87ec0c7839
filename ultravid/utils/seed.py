"""Seeds of a run, of its steps and of its samples.

What a run draws is counted, not streamed: before a step, or before a sample is loaded, Python's, numpy's and torch's global
generators are seeded from a key, such as (seed, iteration, rank). So a resumed run draws what an uninterrupted one does, whatever
was drawn before and in whichever process.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = [
    "generator_states",
    "restore_generators",
    "seed_all_rng",
    "seed_from",
    "seed_iteration",
    "seed_step",
    "seeded_generators",
]

logger = logging.getLogger(__name__)

_64_BITS = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15  # the step of splitmix64
_MT19937_BYTES = 2500  # 624 words and the place of the next one


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
    """The states of python's and numpy's global generators and, with ``torch_too``, of torch's; as tensors and plain data.

    Args:
        torch_too: whether torch's generators are included; CUDA's are, if it is in use.
    """
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
    """Set the generators to the states that `generator_states` returned.

    Args:
        states: the states; a generator that they do not name is left as it is.
    """
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
    """Seed the global generators for one step, so that what the model draws is a function of (seed, iteration, rank).

    Args:
        seed: the seed of the run.
        iteration: the iteration, from 0.
        rank: the process, from 0.
    """
    # Distinct for every rank below 4,096 and iteration below 2**40.
    _seed_generators(_mixed(seed * _GOLDEN + (iteration << 12) + rank))


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed the global generators for what comes before the model in an iteration: hooks, and loaders that load in this process.

    Args:
        seed: the seed of the run.
        iteration: the iteration, from 0.
        rank: the process, from 0.
    """
    _seed_generators(seed_from(seed, "iteration", iteration, rank))


def seed_from(*key: int | str) -> int:
    """64 bits that depend on each part of a key and on their order.

    Args:
        key: whole numbers and words.
    """
    state = 0
    for part in key:
        state = _mixed(state + _GOLDEN + (_number(part) if isinstance(part, str) else part))
    return state


@contextmanager
def seeded_generators(*key: int | str) -> Iterator[None]:
    """A context in which Python's, numpy's and torch's global generators are seeded from a key, by `seed_from`.

    On leaving it the generators have the states that they had before, so that loading a sample in the process that trains
    changes nothing for the model. A context inside another one seeds, but the outer one alone restores; in a loader's worker
    nothing is restored, because each sample there is seeded. It is not for threads: the generators are the process's.

    Entering and leaving costs 45 us in the process that trains, 15 us in a worker.

    Args:
        key: whatever identifies what is drawn, such as the run's seed, a name, and the place of a sample.
    """
    global _restores
    seed = seed_from(*key)
    if _restores or get_worker_info() is not None:
        _seed_generators(seed)
        yield
        return
    states = _States.now()
    _restores = True
    try:
        _seed_generators(seed)
        yield
    finally:
        _restores = False
        states.restore()


_restores = False  # whether a context that restores the states is open


@dataclass(frozen=True, slots=True)
class _Seeded:
    """How numpy's global generator was last seeded.

    Attributes:
        seed: the seed.
        memory: the generator's memory right afterwards.
    """

    seed: int
    memory: bytes


_numpy_seeded = _Seeded(-1, b"")


def _seed_generators(state: int) -> None:
    """Seed each generator of this process from 64 bits.

    torch's are seeded directly: `torch.manual_seed` takes a hundred times as long, as it goes through every kind of device. Both
    torch and numpy have a Mersenne Twister that uses 32 bits of its seed; given the same ones, they would draw the same numbers.
    """
    global _numpy_seeded
    random.seed(state)
    np.random.seed(state >> 32)  # noqa: NPY002  # users' code and libraries use the global generator
    _numpy_seeded = _Seeded(state >> 32, _numpy_memory())
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(state)


def _numpy_memory() -> bytes:
    """The state of numpy's global generator, b"" if it isn't the usual one; `np.random.get_state` takes 70 us."""
    generator = np.random.mtrand.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return b""
    return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


@dataclass(frozen=True, slots=True)
class _States:
    """States of the global generators, for `seeded_generators`; `generator_states` has them as plain data, which takes longer.

    Attributes:
        python: of Python's.
        numpy: of numpy's: how it was seeded, if nothing has been drawn since.
        torch: of torch's on the CPU.
        cuda: of the current CUDA device's, if there is one.
    """

    python: tuple[Any, ...]
    numpy: _Seeded | dict[str, Any]
    torch: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> _States:
        memory = _numpy_memory()
        return cls(
            python=random.getstate(),
            numpy=_numpy_seeded if memory and memory == _numpy_seeded.memory else np.random.get_state(legacy=False),  # noqa: NPY002
            torch=torch.default_generator.get_state(),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        )

    def restore(self) -> None:
        global _numpy_seeded
        random.setstate(self.python)
        if isinstance(self.numpy, _Seeded):
            np.random.seed(self.numpy.seed)  # noqa: NPY002
            _numpy_seeded = self.numpy
        else:
            np.random.set_state(self.numpy)  # noqa: NPY002
        torch.default_generator.set_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


def _mixed(state: int) -> int:
    """64 bits, spread by splitmix64 (Steele et al., OOPSLA 2014)."""
    state &= _64_BITS
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return state ^ (state >> 31)


@functools.lru_cache(maxsize=4096)
def _number(text: str) -> int:
    """64 bits of a text, the same in each process, which `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
