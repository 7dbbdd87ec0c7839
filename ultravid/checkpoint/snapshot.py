"""A copy of a state in reused memory: training waits for the copy only, while a thread writes it to disk."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, np.float32, np.float64, np.int64)

__all__ = ["Snapshot", "check_plain_data"]


def check_plain_data(state: Any, place: str = "") -> None:
    """Check that a state holds tensors and plain data only: reading a checkpoint admits nothing else, and resuming is too late to find out.

    Raises:
        TypeError: it holds something else: which entry, and its type.
    """
    if isinstance(state, Mapping):
        for key, value in state.items():
            check_plain_data(value, f"{place}/{key}")
    elif type(state) in (list, tuple, set, torch.Size):
        for index, value in enumerate(state):
            check_plain_data(value, f"{place}/{index}")
    elif not (state is None or isinstance(state, Tensor | torch.dtype | torch.device) or type(state) in _PLAIN):
        kind = f"{type(state).__module__}.{type(state).__qualname__}"
        raise TypeError(
            f"The state {place.strip('/')!r} can't be saved in a checkpoint: a {kind} is neither a tensor nor plain data."
        )


class Snapshot:
    """Copies states of one structure to the CPU, each time into the same memory.

    The first copy allocates the memory and so takes longer. Memory that a CUDA device copies to is pinned. Tensors that share
    memory in the state (tied weights) share it in the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, state: Any) -> Any:
        """A copy of the state; the copy that an earlier call returned is overwritten.

        Args:
            state: dicts, lists and tuples of tensors and plain data.
        """
        used: dict[str, Tensor] = {}
        copied = self._copy(state, "", used, {})
        self._buffers = used  # memory of tensors that the state no longer has is freed
        if any(t.is_pinned() for t in used.values()):
            torch.cuda.synchronize()  # the copies were queued; the next step must not change what they read
        return copied

    def _copy(self, value: Any, place: str, used: dict[str, Tensor], seen: dict[Any, Tensor]) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value.detach(), place, used, seen)
        if isinstance(value, Mapping):
            return {k: self._copy(v, f"{place}/{k}", used, seen) for k, v in value.items()}
        if isinstance(value, list | tuple):
            items = [self._copy(v, f"{place}/{i}", used, seen) for i, v in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        return copy.deepcopy(value)

    def _copy_tensor(self, value: Tensor, place: str, used: dict[str, Tensor], seen: dict[Any, Tensor]) -> Tensor:
        same = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() > 0 and same in seen:
            return seen[same]
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.shape, buffer.dtype, buffer.stride()) != (
            value.shape,
            value.dtype,
            value.stride(),
        ):
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        buffer.copy_(value, non_blocking=value.is_cuda)
        used[place] = seen[same] = buffer
        return buffer
