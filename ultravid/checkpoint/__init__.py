"""Save, load and take up a run again."""

from typing import TYPE_CHECKING, Any

from ultravid.checkpoint.checkpointer import DetectionCheckpointer
from ultravid.checkpoint.reading import CheckpointError, load_file

if TYPE_CHECKING:
    from ultravid.checkpoint.distributed import DistributedCheckpointer

__all__ = ["CheckpointError", "DetectionCheckpointer", "DistributedCheckpointer", "load_file"]


def __getattr__(name: str) -> Any:
    if name == "DistributedCheckpointer":  # half a second of torch's distributed parts, which few runs need
        from ultravid.checkpoint.distributed import DistributedCheckpointer

        return DistributedCheckpointer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
