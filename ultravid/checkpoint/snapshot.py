"""A copy of a state in memory that is used again, so that training waits for the copy alone while a thread writes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, np.float32, np.float64, np.int64)

__all__ = ["Snapshot", "refuse_what_cannot_be_read"]


def refuse_what_cannot_be_read(state: Any, place: str = "") -> None:
    """Reading a checkpoint admits tensors and plain data alone; a state that holds more must not be found out on resuming.

    Raises:
        TypeError: it holds something else: where, and of what type.
    """
    if isinstance(state, Mapping):
        for key, value in state.items():
            refuse_what_cannot_be_read(value, f"{place}/{key}")
    elif type(state) in (list, tuple, set, torch.Size):
        for index, value in enumerate(state):
            refuse_what_cannot_be_read(value, f"{place}/{index}")
    elif not (state is None or isinstance(state, Tensor | torch.dtype | torch.device) or type(state) in _PLAIN):
        kind = f"{type(state).__module__}.{type(state).__qualname__}"
        raise TypeError(
            f"The state {place.strip('/')!r} can't be kept in a checkpoint: a {kind} is no tensor or plain data."
        )


class Snapshot:
    """Copies states of one structure to the CPU, each time into the same memory.

    The first copy takes the memory and so takes longer. Memory that a device copies to is pinned. Tensors that are one in the
    state (tied weights) are one in the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, state: Any) -> Any:
        """The state with its tensors copied; what an earlier call gave is overwritten.

        Args:
            state: dicts, lists and tuples of tensors and plain data.
        """
        used: dict[str, Tensor] = {}
        copied = self._copy(state, "", used, {})
        self._buffers = used  # of what the state no longer holds, the memory is given back
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
