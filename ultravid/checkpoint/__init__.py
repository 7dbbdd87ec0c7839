"""Save, load and take up a run again."""

from ultravid.checkpoint.checkpointer import DetectionCheckpointer
from ultravid.checkpoint.reading import CheckpointError, load_file

__all__ = ["CheckpointError", "DetectionCheckpointer", "load_file"]
