"""Detections and lesion tracks of a source as CSV, for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.serving.records import FrameDetections
from ultravid.serving.tracks import TrackCollector, TrackSummary
from ultravid.serving.writers.base import PartialText, Picture

__all__ = ["DETECTION_COLUMNS", "TRACK_COLUMNS", "DetectionsCsv", "TracksCsv"]

DETECTION_COLUMNS = ("index", "pts_s", "x1", "y1", "x2", "y2", "score", "class", "class_id", "track_id")
"""One row a detection; ``track_id`` is empty for one without a track."""
TRACK_COLUMNS = (
    *(
        "track_id",
        "class",
        "class_id",
        "first_index",
        "last_index",
        "first_pts_s",
        "last_pts_s",
        "num_frames",
        "length_s",
    ),
    *("num_detections", "best_score", "best_index", "best_pts_s", "best_x1", "best_y1", "best_x2", "best_y2"),
)
"""One row a lesion track; `TrackSummary` says what they are."""


class _Csv:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._text = PartialText(path)
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(columns)

    def close(self) -> None:
        """As `ResultWriter.close`."""
        self._text.close()

    def discard(self) -> None:
        """As `ResultWriter.discard`."""
        self._text.discard()


class DetectionsCsv(_Csv):
    """Writes a row for each detection; a `ResultWriter`.

    Args:
        path: the file.
        class_names: the names of the classes of the model.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(path, DETECTION_COLUMNS)
        self._class_names = class_names

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`; the picture is not used."""
        del picture
        for detection in found.detections:
            row = detection.as_json(self._class_names)
            track = "" if row["track_id"] is None else row["track_id"]
            rest = (row["score"], row["class"], row["class_id"], track)
            self._rows.writerow((found.index, found.pts_s, *row["box"], *rest))


class TracksCsv(_Csv):
    """Writes a row for each lesion track when it is closed; a `ResultWriter`.

    Args:
        path: the file.
        class_names: the names of the classes of the model.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(path, TRACK_COLUMNS)
        self._class_names = class_names
        self._tracks = TrackCollector()

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`; the picture is not used."""
        del picture
        self._tracks.add(found)

    def summaries(self) -> list[TrackSummary]:
        """The tracks so far, by their number."""
        return self._tracks.summaries()

    def close(self) -> None:
        """As `ResultWriter.close`."""
        for track in self.summaries():
            row: dict[str, Any] = track.as_json(self._class_names)
            row |= dict(zip(("best_x1", "best_y1", "best_x2", "best_y2"), row["best_box"], strict=True))
            self._rows.writerow([row[column] for column in TRACK_COLUMNS])
        super().close()
