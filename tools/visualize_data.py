#!/usr/bin/env python
"""Draw a model's input: the training clips of a config, or its test videos, with their boxes.

    python tools/visualize_data.py --config-file projects/basicdet/configs/phantom.py
    python tools/visualize_data.py --config-file F --split test --num-clips 2 --movie --output look data.root=PATH

Writes one PNG for each of the first --num-clips training clips, after augmentation, or for each of the first test videos (16 of its
frames, evenly spaced). With --movie, it also writes an mp4 of all its frames. The label of a box is the number of its lesion in the
video; the label of a tile is the number of its frame.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from ultravid.config import Builder, importable_project, load_checked
from ultravid.datasets.burned_in import refuse_burned_in_text
from ultravid.datasets.fingerprint import videos_of_loader
from ultravid.structures import Clip
from ultravid.utils.drawing import TRUTH, draw_boxes
from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, print_warnings, run_tool

NUM_TILES = 16  # per sheet of a test video
MARGIN = 18  # px above a tile, for its number
FONT = cv2.FONT_HERSHEY_SIMPLEX

WAYS_OUT = {
    "blank": "data.blank_outside_region=true",
    "masks": "data.masks=TABLE",
    "allow": "--allow-burned-in-text",
}  # the keys are those of a config with common/data/recordings.py

Picture = NDArray[np.uint8]


@dataclass
class Strip:
    """The drawn frames of a clip or video.

    Attributes:
        name: of the files.
        title: text above the frames.
        frames: (caption, ``(H, W, 3)`` uint8 RGB).
        fps: frames a second of the movie.
    """

    name: str
    title: str
    frames: Iterator[tuple[str, Picture]]
    fps: float


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--split", choices=("train", "test"), default="train", help="dataloader.train or dataloader.test"
    )
    parser.add_argument("--num-clips", type=int, default=8, metavar="N", help="clips, or test videos (8)")
    parser.add_argument(
        "--first-iteration", type=int, default=0, metavar="I", help="first iteration of the training clips (0)"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/data"), metavar="DIR", help="(outputs/data)")
    parser.add_argument("--movie", action="store_true", help="also write movies")
    parser.add_argument(
        "--allow-burned-in-text",
        action="store_true",
        help="draw DICOM frames that show more than an ultrasound region: names and dates may be burnt into them",
    )
    parser.add_argument("--tile", type=int, default=256, metavar="PX", help="longer side of a frame on a sheet (256)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides")
    args = parser.parse_intermixed_args(argv)
    if args.num_clips < 1 or args.tile < 16 or args.first_iteration < 0:
        parser.error("--num-clips must be at least 1, --tile at least 16, --first-iteration at least 0")
    return args


def draw(image: Tensor, boxes: Tensor, ids: Tensor, image_format: str) -> Picture:
    """A frame ``(3, H, W)`` with its boxes ``(N, 4)``, XYXY in its pixels."""
    pixels = image.clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    shown = np.ascontiguousarray(pixels if image_format == "RGB" else pixels[..., ::-1])
    draw_boxes(shown, boxes.tolist(), TRUTH, [f"#{track_id}" if track_id >= 0 else "" for track_id in ids.tolist()])
    return shown


def strips_of_clips(loader: Any, first_iteration: int) -> Iterator[Strip]:
    """One strip per training clip."""
    image_format = getattr(getattr(loader, "dataset", None), "image_format", "RGB")
    start = getattr(loader, "iterate_from", None)
    batches = start(first_iteration) if start else itertools.islice(iter(loader), first_iteration, None)
    for iteration, batch in enumerate(batches, first_iteration):
        for k, clip in enumerate(batch):
            if not isinstance(clip, Clip):
                raise UserError(f"dataloader.train gives a {type(clip).__name__}; only loaders of Clip can be drawn.")
            height, width = clip.frames.shape[-2:]
            organ = f"  {clip.organ}" if clip.organ else ""
            organ += f"  ({clip.num_memory} memory frames first)" if clip.num_memory else ""
            title = f"iteration {iteration} clip {k}  {clip.video_ids[0]}{organ}  {width}x{height} px"
            frames = (
                (str(index), draw(image, i.gt_boxes.tensor, i.gt_ids, image_format))
                for index, image, i in zip(clip.frame_indices, clip.frames, clip.instances, strict=True)
            )
            yield Strip(f"train_{iteration:06d}_{k}", title, frames, 8.0)


def strips_of_videos(loader: Any) -> Iterator[Strip]:
    """One strip per test video; its frames must be read before the next strip."""
    image_format = getattr(getattr(loader, "dataset", None), "image_format", "RGB")
    items = (item for batch in loader for item in batch)
    for video_id, frames in itertools.groupby(items, key=lambda item: str(item["video_id"])):
        first = next(frames)
        height, width = first["image"].shape[-2:]
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", video_id)
        rate = "" if first.get("fps") else "  frame rate not known"
        title = f"{video_id}  {width}x{height} px{rate}"
        drawn = ((str(item["frame_index"]), draw_item(item, image_format)) for item in itertools.chain([first], frames))
        yield Strip(f"test_{name}", title, drawn, float(first.get("fps") or 30.0))


def draw_item(item: Mapping[str, Any], image_format: str) -> Picture:
    """A test frame: its boxes are in pixels of the file, its image may be resized."""
    boxes = item["instances"].gt_boxes.clone()
    boxes.scale(item["image"].shape[-1] / item["width"], item["image"].shape[-2] / item["height"])
    return draw(item["image"], boxes.tensor, item["instances"].gt_ids, image_format)


def evenly(frames: Iterator[tuple[str, Picture]], number: int) -> list[tuple[str, Picture]]:
    """At most ``number`` frames at about equal distances; at most twice as many are in memory."""
    kept: list[tuple[str, Picture]] = []
    stride = 1
    for n, frame in enumerate(frames):
        if n % stride == 0:
            kept.append(frame)
        if len(kept) == 2 * number:
            kept, stride = kept[::2], 2 * stride
    places = np.linspace(0, len(kept) - 1, min(number, len(kept))).round().astype(int)
    return [kept[place] for place in places]


def contact_sheet(title: str, frames: Sequence[tuple[str, Picture]], tile: int) -> Picture:
    """Frames side by side under their captions."""
    scale = tile / max(frames[0][1].shape[:2])
    width, height = (max(1, round(side * scale)) for side in frames[0][1].shape[1::-1])
    columns = max(1, round(math.sqrt(len(frames) * height / width * 16 / 9)))
    rows = math.ceil(len(frames) / columns)
    columns = math.ceil(len(frames) / rows)  # no row shorter than necessary
    sheet = np.zeros((MARGIN + rows * (height + MARGIN), columns * (width + 2), 3), np.uint8)
    cv2.putText(sheet, title, (4, 13), FONT, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    for n, (caption, frame) in enumerate(frames):
        top, left = MARGIN + n // columns * (height + MARGIN), n % columns * (width + 2)
        cv2.putText(sheet, caption, (left + 3, top + 13), FONT, 0.4, (200, 200, 200), 1, cv2.LINE_AA)
        shown = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        sheet[top + MARGIN : top + MARGIN + height, left : left + width] = shown
    return sheet


class MovieWriter:
    """Writes frames of one size to an mp4."""

    def __init__(self, path: Path, fps: float) -> None:
        import av  # half a second, which is not needed for images

        self._av = av
        self._container = av.open(os.path.abspath(path), "w")  # FFmpeg takes "a:" in "a:b.mp4" for a protocol
        self._stream = self._container.add_stream("libx264", rate=max(1, round(fps)))
        self._stream.pix_fmt = "yuv420p"
        self._size: tuple[int, ...] | None = None

    def add(self, frame: Picture) -> None:
        if self._size is None:
            self._size = tuple(max(2, side // 2 * 2) for side in frame.shape[:2])  # the format needs even sides
            self._stream.height, self._stream.width = self._size
        height, width = self._size
        if frame.shape[:2] != self._size:
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        picture = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def write_strip(strip: Strip, args: argparse.Namespace) -> None:
    """Write the sheet of a strip, and its movie."""
    writer = MovieWriter(args.output / f"{strip.name}.mp4", strip.fps) if args.movie else None

    def frames_to_movie() -> Iterator[tuple[str, Picture]]:
        for caption, frame in strip.frames:
            if writer is not None:
                writer.add(frame)
            yield caption, frame

    frames = evenly(frames_to_movie(), NUM_TILES) if args.split == "test" else list(frames_to_movie())
    if writer is not None:
        writer.close()
    path = args.output / f"{strip.name}.png"
    if not cv2.imwrite(str(path), contact_sheet(strip.title, frames, args.tile)[..., ::-1]):
        raise UserError(f"{path} can't be written.")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    key = f"dataloader.{args.split}"
    with importable_project(args.config_file):
        loader = Builder(load_checked(args.config_file, args.opts, required=(key,))).build(key)
        strips = strips_of_clips(loader, args.first_iteration) if args.split == "train" else strips_of_videos(loader)
        if not args.allow_burned_in_text:
            refuse_burned_in_text(videos_of_loader(loader) or (), "pictures", **WAYS_OUT)
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{args.output}: can't be written ({error.strerror}).") from error
        number = 0
        chosen = itertools.islice(strips, args.num_clips)
        for strip in track(chosen, "clips" if args.split == "train" else "videos", args.num_clips, transient=True):
            write_strip(strip, args)
            number += 1
    print(f"Wrote {number} {'clips' if args.split == 'train' else 'videos'} to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
