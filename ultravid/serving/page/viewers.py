"""The viewers of a page, each with the recordings that only they can see, and when these are deleted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.recording import Recording

__all__ = ["Viewer", "Viewers"]

logger = logging.getLogger(__name__)


class Viewer:
    """One browser, which a cookie tells from others. It may show the page several times.

    Attributes:
        key: the cookie's value.
        recordings: by id.
        num_pages: how many times the page is open now.
        ended: why all was deleted; "" as long as nothing was.
    """

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(32)
        self.recordings: dict[str, Recording] = {}
        self.num_pages = 0
        self.ended = ""
        self._loop = asyncio.get_running_loop()
        self._listeners: set[asyncio.Event] = set()
        self._last_action = time.monotonic()
        self._left_at: float | None = None

    def act(self) -> None:
        """The viewer has done something."""
        self._last_action = time.monotonic()

    def listen(self) -> asyncio.Event:
        """An event that is set when there is news, for a page that was opened; `leave` ends it."""
        event = asyncio.Event()
        event.set()
        self._listeners.add(event)
        self.num_pages += 1
        self._left_at = None
        return event

    def leave(self, event: asyncio.Event) -> None:
        """A page was closed."""
        self._listeners.discard(event)
        self.num_pages -= 1
        if self.num_pages == 0:
            self._left_at = time.monotonic()

    def changed(self) -> None:
        """Tell the pages that there is news, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the server has ended
            return

    def is_gone(self, bounds: PageBounds) -> str:
        """Why all that is theirs is to be deleted; "" if it is not."""
        now = time.monotonic()
        if self._left_at is not None and now - self._left_at > bounds.max_absence_s:
            return "The page was closed."
        is_waiting = self.num_pages > 0 and any(not r.state.is_final for r in self.recordings.values())
        if now - self._last_action > bounds.max_idle_s and not is_waiting:
            return f"Nothing was done for {bounds.max_idle_s / 60:.0f} minutes, so all recordings were deleted from the server."
        return ""

    def remove(self, recording: Recording) -> None:
        """Delete a recording."""
        self.recordings.pop(recording.id, None)
        recording.remove()
        self._wake()

    def end(self, reason: str) -> None:
        """Delete all recordings; the pages learn why."""
        self.ended = reason
        for recording in list(self.recordings.values()):
            self.remove(recording)
        self._wake()

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()


class Viewers:
    """All viewers.

    Args:
        bounds: how many there may be, and when they are gone.
        on_remove: is called with each recording that is deleted, before it is.
    """

    def __init__(self, bounds: PageBounds, on_remove: Callable[[Recording], None]) -> None:
        self.bounds = bounds
        self._viewers: dict[str, Viewer] = {}
        self._on_remove = on_remove

    def __len__(self) -> int:
        return len(self._viewers)

    def new(self) -> Viewer | None:
        """A viewer; None if there are as many as there may be. One who has no recording makes room."""
        if len(self._viewers) >= self.bounds.max_viewers:
            for viewer in [v for v in self._viewers.values() if not v.recordings and not v.num_pages]:
                self.end(viewer, "")
        if len(self._viewers) >= self.bounds.max_viewers:
            return None
        viewer = Viewer()
        self._viewers[viewer.key] = viewer
        return viewer

    def find(self, key: str | None) -> Viewer | None:
        """The viewer with this cookie."""
        return None if key is None else self._viewers.get(key)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of all viewers."""
        return sum(recording.num_bytes for viewer in self._viewers.values() for recording in viewer.recordings.values())

    def remove(self, viewer: Viewer, recording: Recording) -> None:
        """Delete a recording."""
        self._on_remove(recording)
        viewer.remove(recording)

    def end(self, viewer: Viewer, reason: str) -> None:
        """Delete all that is a viewer's."""
        self._viewers.pop(viewer.key, None)
        for recording in viewer.recordings.values():
            self._on_remove(recording)
        viewer.end(reason)

    def sweep(self) -> None:
        """Delete what is of viewers who are gone."""
        for viewer in list(self._viewers.values()):
            reason = viewer.is_gone(self.bounds)
            if reason:
                self.end(viewer, reason)

    def end_all(self, reason: str) -> None:
        """Delete all that is anybody's."""
        for viewer in list(self._viewers.values()):
            self.end(viewer, reason)
