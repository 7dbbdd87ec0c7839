"""Save and load checkpoints, and resume from them."""

from typing import TYPE_CHECKING, Any

from ultravid.checkpoint.checkpointer import DetectionCheckpointer
from ultravid.checkpoint.reading import CheckpointError, load_file

if TYPE_CHECKING:
    from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

    from ultravid.checkpoint.distributed import DistributedCheckpointer

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "DetectionCheckpointer",
    "DistributedCheckpointer",
    "PeriodicCheckpointer",
    "load_file",
]


def __getattr__(name: str) -> Any:
    if name == "DistributedCheckpointer":  # imports half a second of torch's distributed parts, which few runs need
        from ultravid.checkpoint.distributed import DistributedCheckpointer

        return DistributedCheckpointer
    if name in (
        "Checkpointer",
        "PeriodicCheckpointer",
    ):  # fvcore's, for code written for detectron2; they import iopath
        from fvcore.common import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
