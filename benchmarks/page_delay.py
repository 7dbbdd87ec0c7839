"""How long a camera's picture takes on the live page until its boxes are there.

    python benchmarks/page_delay.py --run outputs/run [--image-size 256 256] [--num-frames 300]

A page is served on this machine, and pictures are sent to it as the browser's camera sends them, each when the boxes of the one before
have come: JPEG over a WebSocket, decoded in a process of its own, detected, and back as JSON. What is printed is the time between, and
each part's share of it; the browser adds the capture of a picture and the drawing, some 10 ms.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import asyncio
import json
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import uvicorn
from websockets.sync.client import connect

from ultravid.serving.page.access import Access
from ultravid.serving.page.app import PageApp, create_app
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.camera_stream import CameraStream
from ultravid.serving.page.decoders import DecodedFrame, Privacy
from ultravid.serving.page.model import ModelDetector, load_page_detector
from ultravid.serving.page.server import Protocol, SocketProtocol, bind
from ultravid.serving.page.working_folder import WorkingFolder
from ultravid.serving.records import FrameDetections

WARM_UP = 20
PARTS = ("sent and decoded", "detected", "stored and back")


class TimedStream:
    """A stream that keeps when each of its frames has come; the rest is that of the stream."""

    def __init__(self, stream: CameraStream, came: list[float]) -> None:
        self._stream, self._came = stream, came

    def __iter__(self) -> Iterator[DecodedFrame]:
        for frame in self._stream:
            self._came.append(time.perf_counter())
            yield frame

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class TimedDetector:
    """A detector that keeps when each frame has come and when it was detected; the rest is that of the detector."""

    def __init__(self, detector: ModelDetector) -> None:
        self._detector = detector
        self.came: list[float] = []
        self.found: list[float] = []

    def detect(self, stream: CameraStream) -> Iterator[tuple[DecodedFrame, FrameDetections]]:
        for pair in self._detector.detect(TimedStream(stream, self.came)):
            self.found.append(time.perf_counter())
            yield pair

    def __getattr__(self, name: str) -> object:
        return getattr(self._detector, name)


def measure(page: PageApp, size: tuple[int, int], num_frames: int) -> np.ndarray:
    """When each picture was sent, and when its boxes had come, in seconds: ``(2, num_frames + WARM_UP)``."""
    bound = bind("127.0.0.1", 0)
    protocols = {"http": Protocol, "ws": SocketProtocol}
    server = uvicorn.Server(
        uvicorn.Config(create_app(page), log_config=None, access_log=False, lifespan="on", **protocols)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])), daemon=True)
    thread.start()
    host = f"127.0.0.1:{bound.getsockname()[1]}"
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{host}/api/viewer", method="POST")) as answer:
            cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
        with (
            connect(f"ws://{host}/api/live", additional_headers=cookie) as live,
            connect(f"ws://{host}/api/camera", additional_headers=cookie) as camera,
        ):
            camera.send(json.dumps({"label": "benchmark"}))
            live.send(json.dumps({"type": "watch", "id": json.loads(camera.recv())["id"], "first": 0}))
            return _times(live, camera, size, num_frames)
    finally:
        server.should_exit = True
        thread.join()


def _times(live, camera, size, num_frames) -> np.ndarray:
    generator = np.random.default_rng(0)
    speckle = generator.rayleigh(50, (*size, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    times = []
    for index in range(num_frames + WARM_UP):
        picture = simplejpeg.encode_jpeg(np.roll(speckle, index, axis=1), quality=92)
        begin = time.perf_counter()
        camera.send(struct.pack("<d", index / 30) + picture)
        while not json.loads(live.recv(60)).get("frames"):
            pass
        times.append((begin, time.perf_counter()))
    return np.array(times).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a run, or a config's file")
    parser.add_argument("--image-size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--num-frames", type=int, default=300)
    args = parser.parse_args()
    detector = TimedDetector(load_page_detector(Path(args.run)))
    page = PageApp(
        detector=detector,
        bounds=PageBounds(),
        access=Access(),
        folder=WorkingFolder(),
        title="benchmark",
        privacy=Privacy(allow_burned_in_text=True),
    )
    sent, came_back = measure(page, tuple(args.image_size), args.num_frames)
    moments = np.stack([sent, detector.came, detector.found, came_back])[:, WARM_UP:]
    delays = 1000 * (moments[-1] - moments[0])
    median, p95, p99 = np.percentile(delays, (50, 95, 99))
    print(f"from picture to boxes, {len(delays)} frames: median {median:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    for name, part in zip(PARTS, 1000 * np.diff(moments, axis=0), strict=True):
        print(f"  {name}: median {np.median(part):.1f} ms, {part.sum() / delays.sum():.0%} of the time")


if __name__ == "__main__":
    main()
