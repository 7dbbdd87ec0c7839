"""The exports for a viewer: detections as JSON and CSV, and a movie with boxes.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ultravid.serving.drawing import draw
from ultravid.serving.page.camera_stream import StoredStream
from ultravid.serving.page.decoders import Decoders
from ultravid.serving.page.recording import MovieExport, Recording
from ultravid.serving.page.uploaded_stream import UploadedStream
from ultravid.serving.records import FrameDetections
from ultravid.serving.tracks import summarize_tracks
from ultravid.serving.writers.base import Picture
from ultravid.serving.writers.json_file import DetectionsJson
from ultravid.serving.writers.movie import MovieWriter
from ultravid.serving.writers.tables import DetectionsCsv
from ultravid.utils.errors import UserError

__all__ = ["detections_file", "write_movie"]

logger = logging.getLogger(__name__)

Kind = Literal["json", "csv"]


def detections_file(
    recording: Recording, kind: Kind, min_score: float, class_names: Sequence[str], path: Path
) -> bytes:
    """The detections of a recording, as ``tools/predict.py`` writes them.

    Args:
        recording: that was analysed.
        kind: the kind of the file.
        min_score: detections with a lower score are left out.
        class_names: the names of the classes of the model.
        path: where it is written for a moment.

    Raises:
        OSError: it can't be written.
    """
    assert recording.facts is not None
    frames = _frames(recording, min_score)
    writer: DetectionsCsv | DetectionsJson
    if kind == "csv":
        writer = DetectionsCsv(path, class_names)
    else:
        tracks = [track.as_json(class_names) for track in summarize_tracks(frames)]
        head = {"min_score": min_score}
        foot = {"tracks": tracks, "notes": recording.all_notes}
        writer = DetectionsJson(path, recording.label, recording.facts.size, class_names, head, lambda: foot)
    try:
        for frame in frames:
            writer.add(frame)
        writer.close()
        return path.read_bytes()
    finally:
        writer.discard()
        path.unlink(missing_ok=True)


def write_movie(recording: Recording, export: MovieExport, decoders: Decoders, class_names: Sequence[str]) -> None:
    """Write the movie of a recording, and say in ``export`` how far it is. Called in a thread; raises nothing."""
    try:
        _write_movie(recording, export, decoders, class_names)
        export.state = "done"
    except UserError as error:
        export.state, export.message = "failed", str(error)
    except OSError as error:
        export.state, export.message = "failed", f"the server can't store it ({error.strerror})"
    except Exception:
        logger.exception("The movie of a recording has failed")
        export.state, export.message = "failed", "the server has failed on it; its log says why"
    if export.state == "failed" or (recording.cancelled.is_set() and recording.is_removed):
        export.path.unlink(missing_ok=True)
    recording.changed()


def _write_movie(recording: Recording, export: MovieExport, decoders: Decoders, class_names: Sequence[str]) -> None:
    assert recording.facts is not None
    stream: UploadedStream | StoredStream
    if recording.kind == "file":
        stream = UploadedStream(decoders, recording.path, recording.label, for_movie=True)
    else:
        stream = StoredStream(decoders, recording.pictures, recording.facts.size, len(recording.frames))
    with contextlib.closing(stream):
        writer = MovieWriter(export.path, stream.size, stream.time_base, fps=stream.fps)
        try:
            for frame, found in zip(stream, recording.frames, strict=False):
                if recording.is_removed:
                    raise UserError("the recording was removed")
                picture = draw(frame.image, found, class_names=class_names, min_score=export.min_score)
                writer.add(found, Picture(frame.image, picture))
                export.num_written += 1
                recording.changed()
            writer.close()
            export.num_bytes = export.path.stat().st_size
        finally:
            writer.discard()


def _frames(recording: Recording, min_score: float) -> list[FrameDetections]:
    """The frames with the detections from a score on."""
    return [
        dataclasses.replace(frame, detections=tuple(d for d in frame.detections if d.score >= min_score))
        for frame in recording.frames
    ]
