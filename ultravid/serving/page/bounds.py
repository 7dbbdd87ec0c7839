"""The limits of a page: the most that a visitor, or a file, can use of the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ultravid.utils.errors import UserError

__all__ = ["PageBounds"]


@dataclass(frozen=True)
class PageBounds:
    """The bounds of a page. Each is an option of ``tools/serve.py``: ``max_upload_mb`` is ``--max-upload-mb``.

    Attributes:
        max_upload_mb: of one file, in 10^6 bytes.
        max_stored_mb: of all files and their pictures together, in 10^6 bytes.
        max_frames: of one recording.
        max_pixels: of one frame.
        max_upload_s: from an upload's first byte to its last, in seconds.
        max_analysis_s: from a recording's first frame to its last, in seconds; of a camera too.
        max_running: recordings that are analysed at the same time; others wait in the queue.
        max_queue: recordings that wait.
        max_recordings: of one viewer.
        max_viewers: at the same time.
        max_idle_s: without any action of the viewer, after which all that is theirs is deleted, in seconds.
        max_absence_s: after the viewer's last page was closed, after which all that is theirs is deleted, in seconds.
    """

    max_upload_mb: float = 1_000
    max_stored_mb: float = 8_000
    max_frames: int = 20_000
    max_pixels: int = 16_000_000
    max_upload_s: float = 900
    max_analysis_s: float = 3_600
    max_running: int = 2
    max_queue: int = 32
    max_recordings: int = 8
    max_viewers: int = 32
    max_idle_s: float = 1_800
    max_absence_s: float = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                option = "--" + field.name.replace("_", "-")
                raise UserError(f"{option} {getattr(self, field.name)}: must be a number above 0.")

    @property
    def max_upload_bytes(self) -> int:
        """`max_upload_mb` in bytes."""
        return int(self.max_upload_mb * 1e6)

    @property
    def max_stored_bytes(self) -> int:
        """`max_stored_mb` in bytes."""
        return int(self.max_stored_mb * 1e6)
