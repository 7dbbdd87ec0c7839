"""The messages to an open page: the states of its recordings, and detections as they are made.

A page says which recording it watches, and from which frame on it wants results. What it gets next depends on what it has got, not
on when something happened, so a slow page gets larger messages, and nothing piles up for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from ultravid.serving.page.analysis import AnalysisQueue
from ultravid.serving.page.camera_stream import CameraInbox
from ultravid.serving.page.recording import Recording, as_label
from ultravid.serving.page.viewers import Viewer
from ultravid.serving.page.working_folder import WorkingFolder

__all__ = ["CLOSED", "serve_camera", "serve_page"]

CLOSED = 4000
"""The WebSocket's code when the server has deleted what is the viewer's."""

_BATCH = 400  # frames in a message
_PAUSE_S = 0.02  # between messages of results: a screen shows a frame for as long
_CAMERA_PAUSE_S = 0.001  # a camera's frames are waited for
_START_S = 15.0  # from a camera's socket to its first message
_MAX_PAGES = 32  # of a viewer, at the same time
_MAX_TEXT = 2_000  # characters of a message from the page
_MAX_PICTURE = 1 << 23


class _Page:
    """One open page, with the messages that it has got."""

    def __init__(self, socket: WebSocket, viewer: Viewer, class_names: list[str]) -> None:
        self._socket = socket
        self._viewer = viewer
        self._class_names = class_names
        self._told: Any = None
        self._watched = ""
        self._next = 0

    def watch(self, id: str, first: int) -> None:
        self._watched, self._next = id, max(0, first)

    @property
    def pause_s(self) -> float:
        """How long to wait for more before the next message."""
        recording = self._viewer.recordings.get(self._watched)
        return _CAMERA_PAUSE_S if recording is not None and recording.kind == "camera" else _PAUSE_S

    async def tell(self) -> bool:
        """Send what is new; whether there was anything."""
        states = [recording.as_json() for recording in self._viewer.recordings.values()]
        recording = self._viewer.recordings.get(self._watched)
        first = self._next
        new = [] if recording is None else recording.frames[first : first + _BATCH]
        if states != self._told:
            await self._socket.send_text(json.dumps({"type": "recordings", "recordings": states}))
            self._told = states
        if recording is None or not new:
            return False
        frames = [frame.as_json(self._class_names) for frame in new]
        self._next += len(new)
        message = {"type": "results", "id": recording.id, "first": first, "frames": frames}
        await self._socket.send_text(json.dumps(message))
        return True


async def serve_page(socket: WebSocket, viewer: Viewer, class_names: list[str]) -> None:
    """Tell a page what is new until it is closed, or the viewer's time is over."""
    if viewer.num_pages >= _MAX_PAGES:
        await socket.close(1008)
        return
    event = viewer.listen()
    page = _Page(socket, viewer, class_names)
    reader = asyncio.create_task(_listen(socket, viewer, page, event))
    try:
        while not reader.done():
            await event.wait()
            event.clear()
            while not viewer.ended and not reader.done() and await page.tell():
                await asyncio.sleep(page.pause_s)
            if viewer.ended:
                await socket.close(CLOSED, viewer.ended[:100])
                break
            await asyncio.sleep(page.pause_s)
    except (WebSocketDisconnect, RuntimeError):  # closed while something was sent
        pass
    finally:
        reader.cancel()
        viewer.leave(event)


async def _listen(socket: WebSocket, viewer: Viewer, page: _Page, event: asyncio.Event) -> None:
    try:
        while True:
            text = await socket.receive_text()
            viewer.act()
            if len(text) > _MAX_TEXT:
                break
            message = json.loads(text)
            if message["type"] == "watch":
                page.watch(str(message["id"]), int(message["first"]))
                event.set()
    except (WebSocketDisconnect, RuntimeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    finally:
        event.set()


async def serve_camera(
    socket: WebSocket,
    viewer: Viewer,
    queue: AnalysisQueue,
    folder: WorkingFolder,
) -> None:
    """Take a camera's pictures: its time in seconds (float64, little-endian), then JPEG. The results come through the page's own socket.

    A message ``{"type": "ready", "id"}`` asks for pictures, once there is a place in the queue.
    """
    try:
        start = json.loads((await asyncio.wait_for(socket.receive_text(), _START_S))[:_MAX_TEXT])
        label = as_label(str(start.get("label", "camera")))
    except (WebSocketDisconnect, TimeoutError, KeyError, ValueError, AttributeError, RecursionError):
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1008)
        return
    if viewer.ended or len(viewer.recordings) >= queue.decoders.bounds.max_recordings or queue.is_full:
        await socket.close(1008)  # it was not so when the socket was opened
        return
    inbox = CameraInbox()
    recording = Recording(folder, label, "camera", viewer.changed)
    viewer.recordings[recording.id] = recording
    queue.add(recording, inbox)
    last_s = -math.inf
    try:
        await socket.send_text(json.dumps({"type": "ready", "id": recording.id}))
        while not recording.state.is_final:
            content = await socket.receive_bytes()
            pts_s = struct.unpack_from("<d", content)[0]
            if len(content) > _MAX_PICTURE or not math.isfinite(pts_s) or pts_s <= last_s:
                break
            last_s = pts_s
            viewer.act()
            inbox.put(pts_s, content[8:])
            recording.num_dropped = inbox.num_dropped
    except (WebSocketDisconnect, RuntimeError, KeyError, struct.error):
        pass
    finally:
        inbox.close()
        if recording.place:  # it never began
            queue.cancel(recording)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()
