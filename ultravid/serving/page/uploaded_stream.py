"""A file that a viewer has sent, decoded in another process (`decoder_process`), as a `RecordingStream`.

What comes from that process is checked as if a stranger had sent it.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.source import Region
from ultravid.serving.page.decoders import (
    MAX_FRAME_S,
    MAX_OPEN_S,
    DecodedFrame,
    Decoders,
    DecodingError,
    as_decoding_error,
)
from ultravid.serving.page.wire import receive, receive_bytes, send

__all__ = ["UploadedStream"]


class UploadedStream:
    """A file, decoded in another process, as a `RecordingStream` of `DecodedFrame`.

    Args:
        decoders: that start the process.
        path: the path of the file.
        label: what the viewer calls it, for messages.
        for_movie: frames are black where pictures are, and have no pictures.

    Attributes:
        label: what the recording is called from now on: the given label, or a neutral one if that holds a value of the file's DICOM header.
        blackout: the note for the viewer on what is blacked out in pictures, and why.
        is_cut: whether frames were left out because there are more than `PageBounds.max_frames`.

    Raises:
        DecodingError: it can't be opened, or is beyond the bounds.
    """

    name = "recording"
    is_live = False

    def __init__(self, decoders: Decoders, path: Path, label: str, *, for_movie: bool = False) -> None:
        self._process = decoders.take()
        self._bounds = bounds = decoders.bounds
        self.path: Path | None = path
        self.damage: Sequence[str] = ()
        self.is_cut = False
        job = {
            "kind": "recording",
            "path": str(path),
            "label": label,
            "for_movie": for_movie,
            "max_frames": bounds.max_frames,
            "max_pixels": bounds.max_pixels,
            "max_cpu_s": bounds.max_analysis_s + MAX_OPEN_S,
            **decoders.privacy.as_job(),
        }
        try:
            with as_decoding_error():
                send(self._process.connection, job)
                self._take_facts(self._receive(MAX_OPEN_S))
        except BaseException:
            self.close()
            raise

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        header = receive(self._process.connection, timeout_s)
        if "error" in header:
            raise DecodingError(str(header["error"])[:1000])
        return header

    def _take_facts(self, facts: dict[str, Any]) -> None:
        self.label = str(facts["label"])
        height, width = (int(v) for v in facts["size"])
        if not (height > 0 and width > 0 and height * width <= self._bounds.max_pixels):
            raise ValueError("its size is beyond the bounds")
        self.size = (height, width)
        shown = facts["shown"]
        crop = None if shown["crop"] is None else _region(shown["crop"], self.size)
        blanked = tuple(_region(part, self.size) for part in shown["blanked"])
        fault = None if shown["fault"] is None else str(shown["fault"])
        whole = self.size if crop is None else (crop[3] - crop[1], crop[2] - crop[0])
        self.shown = Shown(crop, blanked, whole, fault)
        self.regions: tuple[Region, ...] | None = None
        if facts["regions"] is not None:
            self.regions = tuple(_region(part, self.size) for part in facts["regions"])
        self.fps = None if facts["fps"] is None else float(facts["fps"])
        base = facts["time_base"]
        self.time_base = None if base is None else Fraction(int(base[0]), int(base[1]))
        self.num_frames = None if facts["num_frames"] is None else int(facts["num_frames"])
        self.metadata: Mapping[str, str | float] = {
            str(k): v if isinstance(v, float | int) else str(v) for k, v in facts["metadata"].items()
        }
        self.blackout = str(facts["blackout"])
        self.repairs: Sequence[tuple[str, str]] = tuple((str(kind), str(text)) for kind, text in facts["repairs"])

    def __iter__(self) -> Iterator[DecodedFrame]:
        """As `RecordingStream`.

        Raises:
            DecodingError: a frame can't be decoded; the recording was closed.
        """
        height, width = self.size
        last = -1
        with as_decoding_error():
            for _ in range(self._bounds.max_frames + 1):
                header = self._receive(MAX_FRAME_S)
                if header.get("end"):
                    self.damage = tuple(str(text) for text in header["damage"])
                    self.is_cut = bool(header["is_cut"])
                    return
                pixels = receive_bytes(self._process.connection, MAX_FRAME_S)
                picture = receive_bytes(self._process.connection, MAX_FRAME_S)
                index, pts_s = int(header["index"]), float(header["pts_s"])
                is_next = last < index < self._bounds.max_frames  # numbers of frames that can't be read are left out
                if len(pixels) != height * width * 3 or not is_next or not math.isfinite(pts_s):
                    raise ValueError(f"frame {index} is not as it was announced")
                last = index
                image = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
                yield DecodedFrame(index, pts_s, image, picture)

    def cancel(self) -> None:
        """End the process, from any thread: an iteration that is under way raises `DecodingError`."""
        self._process.end()

    def close(self) -> None:
        """As `RecordingStream.close`."""
        self._process.close()


def _region(value: Any, size: tuple[int, int]) -> Region:
    x1, y1, x2, y2 = (int(v) for v in value)
    if not (0 <= x1 <= x2 <= size[1] and 0 <= y1 <= y2 <= size[0]):
        raise ValueError("a part lies outside of the image")
    return x1, y1, x2, y2
