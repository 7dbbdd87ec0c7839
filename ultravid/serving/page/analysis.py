"""The queue of recordings: each is decoded in its process, and all share one model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from ultravid.serving.page.camera_stream import CameraInbox, CameraStream
from ultravid.serving.page.decoders import DecodedFrame, Decoders, DecodingError
from ultravid.serving.page.exports import write_movie
from ultravid.serving.page.recording import Facts, MovieExport, Recording, State, as_label
from ultravid.serving.page.uploaded_stream import UploadedStream
from ultravid.serving.records import FrameDetections
from ultravid.utils.errors import UserError

__all__ = ["AnalysisQueue", "Detector", "PageStream"]

logger = logging.getLogger(__name__)

PageStream = UploadedStream | CameraStream
"""Where the frames of a page come from."""


class Detector(Protocol):
    """What finds lesions in the frames of many recordings at once."""

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes."""

    @property
    def min_score(self) -> float:
        """The lowest score that a detection has."""

    def detect(self, stream: PageStream) -> Iterator[tuple[DecodedFrame, FrameDetections]]:
        """The frames of a recording with what is found in them. Called from several threads at once.

        Raises:
            UserError: the model does not take such a recording.
        """


class AnalysisQueue:
    """Recordings that wait, and those that are analysed. Methods are called in the event loop.

    Args:
        detector: the detector of the lesions.
        decoders: the decoders of the recordings; it is closed with the queue.
        is_full: whether the files of all recordings take as much room as they may.
    """

    def __init__(self, detector: Detector, decoders: Decoders, is_full: Callable[[], bool]) -> None:
        self.decoders = decoders
        self._detector = detector
        self._bounds = bounds = decoders.bounds
        self._is_full = is_full
        self._waiting: deque[tuple[Recording, CameraInbox | None]] = deque()
        self._running: dict[str, tuple[Recording, PageStream | CameraInbox | None]] = {}
        self._threads = ThreadPoolExecutor(bounds.max_running, thread_name_prefix="analysis")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="movies")
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether no further recording may wait."""
        return len(self._waiting) >= self._bounds.max_queue

    def add(self, recording: Recording, inbox: CameraInbox | None = None) -> None:
        """Put a recording at the end of the queue; it starts at once if nothing waits."""
        recording.state = State.QUEUED
        self._waiting.append((recording, inbox))
        self._start()

    def cancel(self, recording: Recording) -> None:
        """End a recording, wherever it stands."""
        recording.cancelled.set()
        kept = [item for item in self._waiting if item[0] is not recording]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept)
            recording.finish(State.CANCELLED)
        running = self._running.get(recording.id)
        if running is not None and isinstance(running[1], UploadedStream | CameraStream):
            running[1].cancel()
        elif running is not None and running[1] is not None:
            running[1].close()
        self._start()

    def write_movie(self, recording: Recording, export: MovieExport) -> None:
        """Write the movie of a recording that was analysed, after those of others."""
        recording.export = export
        recording.changed()
        self._writing.submit(write_movie, recording, export, self.decoders, self._detector.class_names)

    def close(self) -> None:
        """End all."""
        self._is_closed = True
        for recording, _ in [*self._waiting, *self._running.values()]:
            self.cancel(recording)
        self.decoders.close()
        for threads in (self._threads, self._writing):
            threads.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._bounds.max_running and not self._is_closed:
            recording, inbox = self._waiting.popleft()
            self._running[recording.id] = (recording, inbox)
            recording.state, recording.place = State.RUNNING, 0
            recording.changed()
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._analyse, recording, inbox)
            future.add_done_callback(partial(self._end, recording))
        for place, (recording, _) in enumerate(self._waiting, 1):
            if recording.place != place:
                recording.place = place
                recording.changed()

    def _end(self, recording: Recording, _future: asyncio.Future[None]) -> None:
        self._running.pop(recording.id, None)
        if not self._is_closed:
            self._start()

    # In a thread

    def _analyse(self, recording: Recording, inbox: CameraInbox | None) -> None:
        """Analyse a recording from its first frame to its last; whatever happens, only this recording fails."""
        try:
            stream = self._open(recording, inbox)
            try:
                self._detect(recording, stream)
            finally:
                stream.close()
        except UserError as error:
            if recording.cancelled.is_set():
                recording.finish(State.CANCELLED)
            else:
                recording.fail(_sentence(str(error)))
        except Exception as error:
            if recording.cancelled.is_set():  # its files are gone
                recording.finish(State.CANCELLED)
                return
            full = isinstance(error, OSError)
            logger.error("The analysis of a recording has failed: %s", error if full else "", exc_info=not full)
            recording.fail("The server can't store it." if full else "The server has failed on it; its log says why.")

    def _open(self, recording: Recording, inbox: CameraInbox | None) -> PageStream:
        if recording.cancelled.is_set():
            raise DecodingError("it was cancelled.")
        stream: PageStream
        if inbox is None:
            stream = UploadedStream(self.decoders, recording.path, recording.label)
            recording.rename(as_label(stream.label))
        else:
            stream = CameraStream(self.decoders, inbox)
        if recording.id in self._running:
            self._running[recording.id] = (recording, stream)
        if recording.cancelled.is_set():
            stream.close()
            raise DecodingError("it was cancelled.")
        recording.facts = Facts(stream.size, stream.fps, stream.num_frames)
        for kind, text in stream.repairs:
            recording.note(_sentence(f"{kind}: {text}"))
        recording.note_blackout(stream.blackout)
        recording.changed()
        return stream

    def _detect(self, recording: Recording, stream: PageStream) -> None:
        deadline = time.monotonic() + self._bounds.max_analysis_s
        for frame, found in self._detector.detect(stream):
            if recording.cancelled.is_set():
                break
            recording.note_blackout(stream.blackout)  # a camera's is guessed again
            recording.add(frame.picture, found)
            if time.monotonic() > deadline:
                recording.note(
                    f"The analysis was ended after {self._bounds.max_analysis_s:.0f} s, at frame {found.index} "
                    "(--max-analysis-s): later frames are missing."
                )
                break
            if self._is_full():
                recording.note(
                    f"The server's room for recordings is full, at frame {found.index}: later frames are missing."
                )
                break
        for text in stream.damage:
            recording.note(_sentence(text, recording.label))
        if stream.is_cut:
            recording.note(
                f"Only the first {self._bounds.max_frames:,} frames were analysed, the most that this page takes (--max-frames)."
            )
        if not recording.frames and not recording.cancelled.is_set():
            recording.fail("It holds no frame.")
            return
        recording.finish(
            State.CANCELLED if recording.cancelled.is_set() and stream.num_frames is not None else State.DONE
        )


def _sentence(text: str, label: str = "") -> str:
    """A message that continued a file's name, as a sentence; one that begins with the name keeps its first letter."""
    text = text.strip()
    if not label or not text.startswith(label):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
