"""A page on 127.0.0.1 for tests, with a detector that needs no model: it boxes the bright square of made-up movies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import uvicorn

from ultravid.serving.page.access import Access
from ultravid.serving.page.app import PageApp, create_app
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.decoders import Privacy
from ultravid.serving.page.server import Protocol, SocketProtocol
from ultravid.serving.page.working_folder import WorkingFolder
from ultravid.serving.records import Detection, FrameDetections

SIDE = 96
SQUARE = 24


def square_of(index: int) -> tuple[int, int]:
    """Left and top edge of the square in a frame: no two frames near each other have it in one place."""
    return 8 + 16 * (index % 4), 8 + 16 * (index // 4 % 4)


def image_of(index: int) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 40, np.uint8)
    x, y = square_of(index)
    image[y : y + SQUARE, x : x + SQUARE] = 250
    return image


def write_squares(path: Path, num_frames: int = 12, rate: int | Fraction = 25, repeat: int = 1, text: str = "") -> Path:
    """A movie of a white square that jumps; ``repeat`` enlarges it, and ``text`` is burnt in at its lower edge."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "8", "preset": "ultrafast"})
        stream.width = stream.height = SIDE * repeat
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            image = np.kron(image_of(index), np.ones((repeat, repeat, 1), np.uint8))
            cv2.putText(image, text, (4, SIDE * repeat - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


class SquareDetector:
    """Boxes the square of `write_squares`, as track 0, with a score that rises along the recording.

    Attributes:
        gate: frames wait for it.
    """

    class_names = ("lesion",)
    min_score = 0.05
    title = "squares"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def detect(self, stream: Any) -> Iterator[tuple[Any, FrameDetections]]:
        for frame in stream:
            self.gate.wait(20)
            bright = np.argwhere(frame.image.mean(axis=-1) > 210)
            found = []
            if len(bright):
                (y1, x1), (y2, x2) = bright.min(axis=0), bright.max(axis=0) + 1
                score = min(0.2 + 0.05 * frame.index, 0.95)
                found = [Detection((float(x1), float(y1), float(x2), float(y2)), score, 0, 0)]
            yield frame, FrameDetections(frame.index, frame.pts_s, tuple(found))


def make_page(folder: Path, token: str | None = None, detector: Any = None, **bounds: Any) -> PageApp:
    return PageApp(
        detector=detector or SquareDetector(),
        bounds=PageBounds(**bounds),
        access=Access("127.0.0.1", token),
        folder=WorkingFolder(folder),
        title="squares",
        privacy=Privacy(allow_burned_in_text=True),
    )


@contextlib.contextmanager
def serving(page: PageApp, port: int = 0) -> Iterator[str]:
    """The page's address, while it is served from a thread, at any free port or a given one."""
    options = {"log_config": None, "access_log": False, "server_header": False, "timeout_graceful_shutdown": 1}
    protocols = {"http": Protocol, "ws": SocketProtocol}
    server = uvicorn.Server(uvicorn.Config(create_app(page), port=port, lifespan="on", **protocols, **options))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def viewer(address: str, token: str | None = None) -> Iterator[httpx.Client]:
    """A client with a viewer's cookie."""
    with httpx.Client(
        base_url=address, timeout=20, verify=False
    ) as client:  # certificates take 0.1 s to read, for nothing
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        assert client.post("/api/viewer", headers=headers).status_code == 200
        try:
            yield client
        finally:
            with contextlib.suppress(httpx.HTTPError):  # the server has ended
                client.post("/api/viewer/end")


def cookie_of(client: httpx.Client) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}


def send(client: httpx.Client, content: Any, name: str = "scan.mp4") -> httpx.Response:
    return client.post("/api/recordings", content=content, headers={"X-Recording-Name": name})


def ended(client: httpx.Client, id: str) -> dict[str, Any]:
    """What is known of a recording once its analysis has ended."""

    def look() -> dict[str, Any] | None:
        (found,) = [one for one in client.get("/api/recordings").json() if one["id"] == id]
        return found if found["state"] in ("done", "failed", "cancelled") else None

    return wait_for(look)
