"""How long a camera's picture takes on the live page until its boxes are there.

    python benchmarks/page_delay.py --run outputs/run [--image-size 256 256] [--num-frames 300]

A page is served on this machine, and pictures are sent to it as the browser's camera sends them, each when the boxes of the one before
have come: JPEG over a WebSocket, decoded in a process of its own, detected, and back as JSON. What is printed is the time between; the
browser adds the capture of a picture and the drawing, some 10 ms.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import asyncio
import json
import struct
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import simplejpeg
import uvicorn
from websockets.sync.client import connect

from ultravid.serving.page.access import Access
from ultravid.serving.page.app import PageApp, create_app
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.decoders import Privacy
from ultravid.serving.page.model import load_page_detector
from ultravid.serving.page.server import bind
from ultravid.serving.page.working_folder import WorkingFolder

WARM_UP = 20


def measure(page: PageApp, size: tuple[int, int], num_frames: int) -> list[float]:
    """Milliseconds from a picture to its boxes, of each but the first frames."""
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(create_app(page), log_config=None, access_log=False, ws="websockets-sansio", lifespan="on")
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
            return _delays(live, camera, size, num_frames)[WARM_UP:]
    finally:
        server.should_exit = True
        thread.join()


def _delays(live, camera, size, num_frames) -> list[float]:
    generator = np.random.default_rng(0)
    speckle = generator.rayleigh(50, (*size, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    delays = []
    for index in range(num_frames + WARM_UP):
        picture = simplejpeg.encode_jpeg(np.roll(speckle, index, axis=1), quality=92)
        begin = time.perf_counter()
        camera.send(struct.pack("<d", index / 30) + picture)
        while not json.loads(live.recv(60)).get("frames"):
            pass
        delays.append(1000 * (time.perf_counter() - begin))
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a run, or a config's file")
    parser.add_argument("--image-size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--num-frames", type=int, default=300)
    args = parser.parse_args()
    page = PageApp(
        detector=load_page_detector(Path(args.run)),
        bounds=PageBounds(),
        access=Access(),
        folder=WorkingFolder(),
        title="benchmark",
        privacy=Privacy(allow_burned_in_text=True),
    )
    delays = np.array(measure(page, tuple(args.image_size), args.num_frames))
    median, p95, p99 = np.percentile(delays, (50, 95, 99))
    print(f"from picture to boxes, {len(delays)} frames: median {median:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    main()
