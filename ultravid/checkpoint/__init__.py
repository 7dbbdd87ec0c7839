"""Save, load and take up a run again."""

from ultravid.checkpoint.checkpointer import CheckpointError, DetectionCheckpointer

__all__ = ["CheckpointError", "DetectionCheckpointer"]
