"""The last frames of a stream, as tensors of fixed shape.

Legend: ``L`` places of the ring, oldest first, the newest last; ``R`` frames of the window; ``T`` frames of a clip.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.modeling.types import State
from ultravid.utils.limits import Positive

__all__ = ["FrameWindow", "InterleavedStreams", "temporal_mask"]


class FrameWindow:
    """Every ``stride``-th of the last frames, counted back from the newest. Frames are in the state, not in this object.

    The state holds the last ``(num_frames - 1) * stride + 1`` frames; older ones are dropped, so a video may be endless.

    Args:
        num_frames: number of frames ``R`` in a window, the newest included.
        stride: frames from one to the next in a window.

    Raises:
        ValueError: one of them is below 1.
    """

    def __init__(self, num_frames: Positive, stride: Positive = 1) -> None:
        if num_frames < 1 or stride < 1:
            raise ValueError(f"num_frames={num_frames} and stride={stride} must be at least 1.")
        self.num_frames = num_frames
        self.stride = stride

    @property
    def length(self) -> int:
        """``L``, the number of frames that the state holds: ``(num_frames - 1) * stride + 1``."""
        return (self.num_frames - 1) * self.stride + 1

    def initial_state(self, device: torch.device | None, **like: tuple[tuple[int, ...], torch.dtype]) -> State:
        """An empty ring: ``(L, *shape)`` zeros for each name, and ``valid`` ``(L,)`` bool, all False.

        Args:
            device: device of the tensors; None: the CPU.
            like: (shape, dtype) of one frame's tensor, by name.
        """
        rings = {
            name: torch.zeros((self.length, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in like.items()
        }
        return {**rings, "valid": torch.zeros(self.length, dtype=torch.bool, device=device)}

    def push(self, state: State, **newest: Tensor) -> State:
        """The ring with one more frame; the oldest is dropped.

        Args:
            state: from `initial_state` or the previous call; it is not written to.
            newest: the frame's tensors, with the names and shapes of `initial_state`.
        """
        pushed = {name: self.append(state[name], value) for name, value in newest.items()}
        return {**pushed, "valid": self.append(state["valid"], state["valid"].new_ones(()))}

    def append(self, ring: Tensor, newest: Tensor) -> Tensor:
        """`push` of one tensor: ``ring`` ``(L, ...)`` without its first row, and ``newest`` ``(...)`` in the ring's dtype as the last."""
        return torch.cat((ring[1:], newest[None].to(ring.dtype)))

    def window(self, state: State) -> State:
        """The frames of the window, ``(R, ...)`` of each tensor of ``state``, ``valid`` included, the newest frame last."""
        if self.stride == 1:
            return state
        return {name: ring[:: self.stride] for name, ring in state.items()}


def temporal_mask(length: int, context_frames: int, causal: bool, device: torch.device | None = None) -> Tensor:
    """``(T, T)`` bool: the row's frame may use the column's.

    Args:
        length: ``T``.
        context_frames: 0 allows only the frame itself; with ``causal`` it limits how far back a frame sees.
        causal: allow no later frame; otherwise every frame sees every other.
        device: device of the result.
    """
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    if context_frames == 0:
        return back == 0
    return (back >= 0) & (back <= context_frames) if causal else torch.ones_like(back, dtype=torch.bool)


class InterleavedStreams:
    """``stride`` streams whose frames come in turn: what a part does whose windows take every ``stride``-th frame, counted back.

    Each stream has its own state, in which the frames of a window lie next to each other; what a step computes for a pair of
    frames can then be kept whatever the stride.

    Args:
        stride: number of streams.

    Raises:
        ValueError: it is below 1.
    """

    def __init__(self, stride: Positive = 1) -> None:
        if stride < 1:
            raise ValueError(f"stride={stride} must be at least 1.")
        self.stride = stride

    def initial_state(self, state: State) -> State:
        """The states of all streams: each tensor of one stream's state, with a leading axis if there are several streams."""
        if self.stride == 1:
            return state
        return {name: torch.stack([value] * self.stride) for name, value in state.items()}

    def current(self, state: State) -> State:
        """The state of the stream whose turn it is."""
        return state if self.stride == 1 else {name: value[0] for name, value in state.items()}

    def advance(self, state: State, current: State) -> State:
        """The states after a frame: that stream has a new state, and it is the turn of the next one."""
        if self.stride == 1:
            return {name: current[name] for name in state}  # in one order always
        return {name: torch.cat((state[name][1:], current[name][None])) for name in state}
