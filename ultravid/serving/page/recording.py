"""One recording of a viewer: its state, its detections so far, and its files."""

from __future__ import annotations

import enum
import math
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ultravid.serving.page.pictures import PictureStore
from ultravid.serving.page.working_folder import WorkingFolder
from ultravid.serving.records import FrameDetections

__all__ = ["Facts", "MovieExport", "Recording", "State", "as_label"]

_LABEL_LENGTH = 200


class State(enum.StrEnum):
    """The state of a recording."""

    UPLOADING = "uploading"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """All frames were analysed, or all that could be: `Recording.notes` says what is missing."""

    FAILED = "failed"
    """Nothing was analysed; `Recording.message` says why."""

    CANCELLED = "cancelled"
    """The viewer has ended it; what was analysed until then can be seen."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be analysed."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Facts:
    """What a source states.

    Attributes:
        size: (height, width) of its images in pixels.
        fps: frames per second.
        num_frames: how many frames are expected.
    """

    size: tuple[int, int]
    fps: float | None = None
    num_frames: int | None = None


@dataclass
class MovieExport:
    """An annotated movie that is being written, or is there.

    Attributes:
        path: the path of the movie.
        min_score: the lowest score of the detections in it.
        num_written: frames so far.
        num_bytes: the size of the movie, once it is there.
        state: how far it is.
        message: why it failed.
        id: random; it tells this movie from an earlier one of the same recording.
    """

    path: Path
    min_score: float
    num_written: int = 0
    num_bytes: int = 0
    state: Literal["writing", "done", "failed"] = "writing"
    message: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(8))

    def as_json(self) -> dict[str, Any]:
        """The JSON form for the page."""
        return {
            "id": self.id,
            "state": self.state,
            "frames": self.num_written,
            "min_score": self.min_score,
            "message": self.message,
        }


class Recording:
    """A recording. One thread adds frames, the event loop does the rest.

    Args:
        folder: for its files.
        label: what the viewer calls it; it is shown to the viewer and is never a path.
        kind: a file that is uploaded, or frames of the browser's camera.
        on_change: is called, from any thread, when there is news.

    Attributes:
        id: random.
        path: the path of the upload.
        state: its state.
        place: in the queue, from 1; 0 if it is not in the queue.
        message: why it failed.
        blackout: what is black in the pictures, and why; "" until it is known.
        notes: what else the viewer ought to know: what was repaired or left out.
        facts: None until the source is open.
        frames: what was found, in the frames' order.
        pictures: the frames' pictures, as many as `frames` or one more.
        num_dropped: frames of a camera that were not analysed, because they came too fast.
        export: the annotated movie.
        cancelled: is set when nothing more is to be analysed.
        is_removed: whether its files are gone.
    """

    def __init__(
        self,
        folder: WorkingFolder,
        label: str,
        kind: Literal["file", "camera"],
        on_change: Callable[[], None],
        suffix: str = "",
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.label = label
        self.kind = kind
        self.path = folder.new_path(suffix)
        self.state = State.UPLOADING if kind == "file" else State.QUEUED
        self.place = 0
        self.message = ""
        self.blackout = ""
        self.notes: list[str] = []
        self.facts: Facts | None = None
        self.frames: list[FrameDetections] = []
        self.pictures = PictureStore(folder.new_path(".pictures"))
        self.num_dropped = 0
        self.num_uploaded_bytes = 0
        self.export: MovieExport | None = None
        self.cancelled = threading.Event()
        self.is_removed = False
        self._on_change = on_change

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        exported = 0 if self.export is None else self.export.num_bytes
        return self.num_uploaded_bytes + self.pictures.num_bytes + exported

    def changed(self) -> None:
        """Tell that there is news."""
        self._on_change()

    def add(self, picture: bytes, found: FrameDetections) -> None:
        """Add a frame and its detections.

        Raises:
            ValueError: its time stamp is not a number: no frame could be shown at its time.
            OSError: the disk is full.
        """
        if not math.isfinite(found.pts_s):
            raise ValueError(f"frame {found.index} has no time stamp")
        self.pictures.append(picture)
        self.frames.append(found)  # after its picture: who sees the frame can have the picture
        self._on_change()

    @property
    def all_notes(self) -> list[str]:
        """What the viewer ought to know."""
        return [self.blackout, *self.notes] if self.blackout else list(self.notes)

    def note_blackout(self, text: str) -> None:
        """Replace the note for the viewer on what is blacked out in the pictures."""
        if text != self.blackout:
            self.blackout = text
            self._on_change()

    def note(self, text: str) -> None:
        """Tell the viewer something, once."""
        if text not in self.notes:
            self.notes.append(text)
            self._on_change()

    def rename(self, label: str) -> None:
        """Give it another label, which the exports have too, because its own may name the patient."""
        if label != self.label:
            self.label = label
            self.note(
                f"It is called {label}: its file's name contains a value of the DICOM header (a name, id or date)."
            )

    def fail(self, message: str) -> None:
        """End it with a message; a recording of which something was analysed is done, and its end is a note."""
        if self.frames:
            self.note(message)
            self.finish(State.DONE)
        else:
            self.message = message
            self.finish(State.FAILED)

    def finish(self, state: State) -> None:
        """Nothing more will be analysed."""
        self.state, self.place = state, 0
        self._on_change()

    def remove(self) -> None:
        """Delete its files; what still runs for it ends."""
        self.is_removed = True
        self.cancelled.set()
        self.pictures.remove()
        self.path.unlink(missing_ok=True)
        if self.export is not None:
            self.export.path.unlink(missing_ok=True)

    def as_json(self) -> dict[str, Any]:
        """What the page shows of it, without the frames."""
        facts = self.facts
        return {
            "id": self.id,
            "label": self.label,
            "kind": self.kind,
            "state": self.state.value,
            "place": self.place,
            "message": self.message,
            "notes": self.all_notes,
            "frames": len(self.frames),
            "expected": None if facts is None else facts.num_frames,
            "width": None if facts is None else facts.size[1],
            "height": None if facts is None else facts.size[0],
            "fps": None if facts is None else facts.fps,
            "dropped": self.num_dropped,
            "movie": None if self.export is None else self.export.as_json(),
        }


def as_label(name: str) -> str:
    """A file's name as a label: without folders and control characters, of at most 200 characters."""
    name = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in name if c.isprintable())[:_LABEL_LENGTH].strip() or "recording"
