"""A detector's memory of earlier frames."""

from ultravid.modeling.context.memory import FrameMemory, FrameTokens

__all__ = ["FrameMemory", "FrameTokens"]
