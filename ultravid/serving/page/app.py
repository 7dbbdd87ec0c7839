"""The routes of the page. Its own files are read when the app is made; no file that a request names is opened."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, HTTPConnection

from ultravid.serving.page.access import Access, Guard
from ultravid.serving.page.analysis import AnalysisQueue, Detector
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.decoders import Decoders, Privacy
from ultravid.serving.page.exports import detections_file
from ultravid.serving.page.live import serve_camera, serve_page
from ultravid.serving.page.recording import MovieExport, Recording, as_label
from ultravid.serving.page.uploads import RefusedUploadError, announced_fault, drain, known_suffix, receive_upload
from ultravid.serving.page.viewers import Viewer, Viewers
from ultravid.serving.page.working_folder import WorkingFolder
from ultravid.utils.drawing import DETECTION, css

__all__ = ["PageApp", "create_app"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_Score = Annotated[float, Query(ge=0, le=1)]
_SWEEP_S = 1.0
_MAX_PICTURES = 64  # of a request


@dataclass
class PageApp:
    """What the routes work on.

    Attributes:
        detector: the detector of the lesions.
        bounds: the bounds of what is accepted.
        access: who is let in.
        folder: for uploads.
        title: what the page says of the model.
        privacy: what of frames is black in pictures.
        decoders: the decoders of the recordings.
        viewers: who there is.
        queue: the queue of the recordings; there from the start of the server to its end.
    """

    detector: Detector
    bounds: PageBounds
    access: Access
    folder: WorkingFolder
    title: str
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        self.decoders = Decoders(self.bounds, self.privacy)
        self.viewers = Viewers(self.bounds, lambda recording: self.queue.cancel(recording))
        self.queue: AnalysisQueue

    def is_full(self) -> bool:
        """Whether the files take as much room as they may."""
        return self.viewers.num_bytes >= self.bounds.max_stored_bytes

    @property
    def class_names(self) -> list[str]:
        """Of the model."""
        return list(self.detector.class_names)

    def facts(self) -> dict[str, Any]:
        """The facts that the page gets when it is opened."""
        return {
            "title": self.title,
            "classes": self.class_names,
            "min_score": self.detector.min_score,
            "colour": css(DETECTION),
            "max_upload_bytes": self.bounds.max_upload_bytes,
            "max_frames": self.bounds.max_frames,
        }

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """The time from the server's start to its end."""
        self.queue = AnalysisQueue(self.detector, self.decoders, self.is_full)
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            self.viewers.end_all("The server was stopped.")
            await asyncio.sleep(0)  # the pages are told
            self.queue.close()
            self.folder.remove()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_S, self.bounds.max_absence_s / 2))
            self.viewers.sweep()


def create_app(page: PageApp) -> Guard:
    """The ASGI application; when it is stopped, all that it stored is deleted. Errors of its own pass the guard too."""
    app = FastAPI(lifespan=page.running, docs_url=None, redoc_url=None, openapi_url=None)
    _add_page_files(app)
    _add_viewer(app, page)
    _add_recordings(app, page)
    _add_results(app, page)
    _add_sockets(app, page)
    return Guard(app, page.access)


def _add_page_files(app: FastAPI) -> None:
    for file in resources.files("ultravid.serving.page").joinpath("static").iterdir():
        kind = next((kind for suffix, kind in _TYPES.items() if file.name.endswith(suffix)), None)
        if kind is not None:
            name = "/" if file.name == "index.html" else f"/{file.name}"
            app.add_api_route(name, _sender_of(file.read_bytes(), kind), methods=["GET", "HEAD"])


def _sender_of(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _cookie_name(connection: HTTPConnection) -> str:
    """The name of the viewer's cookie: a browser sends a host's cookies to all its ports, and several pages may be served there."""
    server = connection.scope.get("server")
    return f"ultravid_viewer_{server[1] if server else 0}"


def _viewer(page: PageApp, request: Request) -> Viewer:
    """Who sends a request."""
    viewer = page.viewers.find(request.cookies.get(_cookie_name(request)))
    if viewer is None:
        raise HTTPException(401, "This page has expired: open it again.")
    viewer.act()
    return viewer


def _own(viewer: Viewer, id: str) -> Recording:
    recording = viewer.recordings.get(id)
    if recording is None:
        raise HTTPException(404, "There is no such recording.")
    return recording


def _add_viewer(app: FastAPI, page: PageApp) -> None:
    @app.post("/api/viewer")
    async def open_page(request: Request) -> Response:
        viewer = page.viewers.find(request.cookies.get(_cookie_name(request)))
        is_new = viewer is None
        if viewer is None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if page.access.needs_token and not (
                scheme.lower() == "bearer" and await page.access.is_token(token.strip())
            ):
                raise HTTPException(401, "The token is missing or wrong; the server printed it when it was started.")
            viewer = page.viewers.new()
        if viewer is None:
            raise HTTPException(503, "The page has the largest allowed number of viewers; try again later.")
        viewer.act()
        response = JSONResponse({**page.facts(), "is_new": is_new})
        is_secure = request.headers.get("origin", "").startswith("https:")
        response.set_cookie(
            _cookie_name(request), viewer.key, httponly=True, samesite="strict", path="/", secure=is_secure
        )
        return response

    @app.post("/api/viewer/end")
    async def end(request: Request) -> Response:
        viewer = page.viewers.find(request.cookies.get(_cookie_name(request)))
        if viewer is not None:
            page.viewers.end(viewer, "All recordings were deleted from the server.")
        response = Response(status_code=204)
        response.delete_cookie(_cookie_name(request), path="/", httponly=True, samesite="strict")
        return response


def _add_recordings(app: FastAPI, page: PageApp) -> None:
    @app.post("/api/recordings", status_code=201)
    async def upload(request: Request) -> Response:
        viewer = _viewer(page, request)
        fault = announced_fault(request.headers.get("content-length"), page.bounds)
        if fault is not None:
            return _refused(413 if "large" in fault else 400, fault)
        if len(viewer.recordings) >= page.bounds.max_recordings:
            return _refused(
                409, f"There are {len(viewer.recordings)} recordings, the most that a viewer may have: remove one."
            )
        if page.queue.is_full or page.is_full():
            return _refused(503, "The server is busy with other recordings; try again later.")
        label = as_label(unquote(request.headers.get("x-recording-name", "recording")))
        recording = Recording(page.folder, label, "file", viewer.changed, known_suffix(label))
        viewer.recordings[recording.id] = recording
        viewer.changed()
        chunks = request.stream()
        try:
            await receive_upload(chunks, recording, page.bounds, page.is_full)
        except RefusedUploadError as error:
            page.viewers.remove(viewer, recording)
            await drain(chunks)
            return _refused(error.status, str(error))
        except ClientDisconnect:
            page.viewers.remove(viewer, recording)
            return Response(status_code=400)  # nobody hears it
        except BaseException:
            page.viewers.remove(viewer, recording)
            raise
        if recording.id not in viewer.recordings:  # it was removed meanwhile
            return _refused(410, "The recording was removed.")
        page.queue.add(recording)
        return JSONResponse({"id": recording.id}, 201)

    @app.get("/api/recordings")
    async def list_recordings(request: Request) -> list[dict[str, Any]]:
        return [recording.as_json() for recording in _viewer(page, request).recordings.values()]

    @app.post("/api/recordings/{id}/cancel", status_code=204)
    async def cancel(request: Request, id: str) -> None:
        page.queue.cancel(_own(_viewer(page, request), id))

    @app.delete("/api/recordings/{id}", status_code=204)
    async def remove(request: Request, id: str) -> None:
        viewer = _viewer(page, request)
        page.viewers.remove(viewer, _own(viewer, id))


def _refused(status: int, message: str) -> Response:
    """An answer to an upload that is not read to its end: the connection can't be used again."""
    return JSONResponse({"detail": message}, status, headers={"connection": "close"})


def _add_results(app: FastAPI, page: PageApp) -> None:
    @app.get("/api/recordings/{id}/pictures")
    async def pictures(request: Request, id: str, first: int, count: int = 1) -> Response:
        recording = _own(_viewer(page, request), id)
        last = min(first + min(count, _MAX_PICTURES), len(recording.frames))
        if not 0 <= first < last:
            raise HTTPException(404, "There is no such frame.")
        try:
            found = recording.pictures.read(range(first, last))
        except OSError:
            raise HTTPException(404, "The recording was removed.") from None
        content = b"".join(struct.pack("<I", len(picture)) + picture for picture in found)
        return Response(content, media_type="application/octet-stream")

    @app.get("/api/recordings/{id}/detections.{kind}")
    async def detections(request: Request, id: str, kind: Literal["json", "csv"], min_score: _Score = 0.0) -> Response:
        recording = _analysed(_own(_viewer(page, request), id))
        path = page.folder.new_path(f".{kind}")
        try:
            content = await run_in_threadpool(detections_file, recording, kind, min_score, page.class_names, path)
        except OSError:
            raise HTTPException(507, "The server can't store it.") from None
        return Response(content, media_type="application/json" if kind == "json" else "text/csv; charset=utf-8")

    @app.post("/api/recordings/{id}/movie", status_code=202)
    async def start_movie(request: Request, id: str, min_score: _Score = 0.0) -> dict[str, Any]:
        recording = _analysed(_own(_viewer(page, request), id))
        if recording.export is not None and recording.export.state == "writing":
            raise HTTPException(409, "The movie is being written.")
        if page.is_full():
            raise HTTPException(507, "The server has no space for it now; remove a recording.")
        if recording.export is not None:
            recording.export.path.unlink(missing_ok=True)
        export = MovieExport(page.folder.new_path(".mp4"), min_score)
        page.queue.write_movie(recording, export)
        return export.as_json()

    @app.get("/api/recordings/{id}/movie.mp4")
    async def movie(request: Request, id: str) -> Response:
        recording = _own(_viewer(page, request), id)
        if recording.export is None or recording.export.state != "done":
            raise HTTPException(404, "There is no movie.")
        return FileResponse(recording.export.path, media_type="video/mp4")


def _analysed(recording: Recording) -> Recording:
    if not recording.state.is_final or not recording.frames:
        raise HTTPException(409, "The recording is not analysed yet.")
    return recording


def _add_sockets(app: FastAPI, page: PageApp) -> None:
    @app.websocket("/api/live")
    async def live(socket: WebSocket) -> None:
        viewer = page.viewers.find(socket.cookies.get(_cookie_name(socket)))
        if viewer is None:
            await socket.close(1008)
            return
        await socket.accept()
        viewer.act()
        await serve_page(socket, viewer, page.class_names)

    @app.websocket("/api/camera")
    async def camera(socket: WebSocket) -> None:
        viewer = page.viewers.find(socket.cookies.get(_cookie_name(socket)))
        is_refused = viewer is None or len(viewer.recordings) >= page.bounds.max_recordings
        if viewer is None or is_refused or page.queue.is_full or page.is_full():
            await socket.close(1008)
            return
        await socket.accept()
        await serve_camera(socket, viewer, page.queue, page.folder)
