#!/usr/bin/env python
"""From a movie's file to the written movie with boxes: frames per second, and the share of each stage.

    python -m benchmarks.streaming --run outputs/run [--size 256] [--frames 600] [--turns 5] [--movie FILE] [--json FILE]
    python -m benchmarks.streaming --run outputs/run --soak 20000

The movie is of the phantom, unless --movie names another. ``pipeline`` is what tools/predict.py runs: decode, detect, track, draw and encode
side by side, with the movie, JSON and tables as they are written for a user. ``sequential``, beside it, is a plain loop over the same parts,
one frame after the other. They take turns; each number is the median over the turns, with the lowest and the highest. ``cpu`` is the
processor's time a frame, which other processes disturb less.

``--soak N`` runs N frames through one pipeline and says how memory and the time of a frame change from its first to its last tenth.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

# Run as a file, only its own folder would be on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ultravid.datasets.phantom import make_phantom_video
from ultravid.datasets.readers.source import Region
from ultravid.serving.drawing import draw
from ultravid.serving.output_folder import Identity, OutputFolder
from ultravid.serving.pipeline import STAGES, PipelineReport
from ultravid.serving.predictor import StreamingPredictor
from ultravid.serving.processing import OutputChoice, SourceProcessor
from ultravid.serving.records import TimedFrame
from ultravid.serving.sources import RecordingStream, open_stream
from ultravid.serving.writers import DetectionsCsv, DetectionsJson, MovieWriter, Picture, ResultWriter, TracksCsv
from ultravid.utils.whole_files import dump_json, write_whole

CLIP = 64  # frames of a phantom video


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--size", type=int, default=256, metavar="PX", help="side of the movie and of the model's input"
    )
    parser.add_argument("--frames", type=int, default=600, metavar="N")
    parser.add_argument("--turns", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N", help="of an operation on the CPU (by the model's size)")
    parser.add_argument("--movie", type=Path, metavar="FILE")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="frames")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def write_phantom_movie(path: Path, size: int, num_frames: int) -> None:
    """A movie of phantom videos, one behind the other, at 29.97 frames per second, as a scanner may export it."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "18", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(num_frames):
            if number % CLIP == 0:
                frames = make_phantom_video(CLIP, size, np.random.default_rng(number)).frames
            image = np.repeat(frames[number % CLIP][..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())


class Repeated:
    """A movie again and again until there are enough frames, as a `RecordingStream`."""

    def __init__(self, path: Path, num_frames: int) -> None:
        self._open: Callable[[], RecordingStream] = lambda: open_stream(path)
        self._stream = self._open()
        self._num = num_frames
        self.name, self.size, self.shown, self.fps = "soak", self._stream.size, self._stream.shown, self._stream.fps
        self.time_base, self.num_frames, self.is_live = self._stream.time_base, num_frames, False
        self.states_num_frames = True
        self.metadata: Mapping[str, str | float] = {}
        self.repairs: Sequence[tuple[str, str]] = ()
        self.damage: Sequence[str] = ()
        self.path: Path | None = None
        self.regions: tuple[Region, ...] | None = None

    def __iter__(self) -> Iterator[TimedFrame]:
        index, start_s = 0, 0.0
        while index < self._num:
            last_s = start_s
            for frame in self._stream:
                last_s = start_s + frame.pts_s
                yield TimedFrame(index, last_s, frame.image)
                index += 1
                if index == self._num:
                    return
            start_s = last_s + 1 / (self.fps or 25.0)
            self._stream.close()  # else decoders pile up until a garbage collection, and the soak shows their memory
            self._stream = self._open()

    def close(self) -> None:
        self._stream.close()


def run_pipelined(
    predictor: StreamingPredictor, stream: RecordingStream, folder: Path, on_frame: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """As the tool does it: the source's entry in the report."""
    output = OutputFolder(folder, Identity("benchmark"))
    return SourceProcessor(predictor, output, OutputChoice(allow_burned_in_text=True)).run(
        stream, "a", "", label="a", on_frame=on_frame
    )


def run_sequential(predictor: StreamingPredictor, stream: RecordingStream, folder: Path) -> dict[str, Any]:
    """A plain loop over the same parts."""
    names = predictor.class_names
    writers: list[ResultWriter] = [
        MovieWriter(folder / "b.mp4", stream.size, stream.time_base, fps=stream.fps),
        DetectionsCsv(folder / "b.csv", names),
        TracksCsv(folder / "b.tracks.csv", names),
        DetectionsJson(folder / "b.json", "b", stream.size, names),
    ]
    report = PipelineReport()
    detections = predictor.stream_of(stream)
    begin = time.perf_counter()
    frames = iter(stream)
    while (frame := report.stages["decode"].run(next, frames, None)) is not None:
        found = report.stages["detect"].run(detections.frame, frame)
        drawn = report.stages["draw"].run(lambda f=frame, d=found: draw(f.image, d, class_names=names))
        for writer in writers:
            report.stages["encode"].run(writer.add, found, Picture(frame.image, drawn))
        report.num_frames += 1
    for writer in writers:
        report.stages["encode"].run(writer.close)
    report.wall_s = time.perf_counter() - begin
    stream.close()
    return report.as_json()


def compare(predictor: StreamingPredictor, movie: Path, turns: int) -> dict[str, dict[str, Any]]:
    """Medians over the turns, by the way of running."""
    ways = {"pipeline": run_pipelined, "sequential": run_sequential}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):
            for name, way in ways.items():
                cpu = time.process_time()
                row = way(predictor, open_stream(movie), Path(folder))
                row["cpu_ms"] = 1000 * (time.process_time() - cpu) / row["frames"]
                if turn:  # the first one warms up
                    rows[name].append(row)
                    print(
                        f"turn {turn} {name}: {row['frames_per_second']:.1f} frames/s, cpu {row['cpu_ms']:.1f} ms a frame",
                        flush=True,
                    )
    found = {}
    for name, of_way in rows.items():
        rates = [row["frames_per_second"] for row in of_way]
        found[name] = {
            "frames_per_second": statistics.median(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "cpu_ms": statistics.median(row["cpu_ms"] for row in of_way),
            "shares": {stage: statistics.median(row["stages"][stage]["share"] for row in of_way) for stage in STAGES},
        }
    return found


def soak(predictor: StreamingPredictor, movie: Path, num_frames: int) -> dict[str, Any]:
    """Memory and time of a frame in the first and the last tenth."""
    times, memory = [], []

    def on_frame(number: int) -> None:
        times.append(time.perf_counter())
        if number % max(1, num_frames // 100) == 0:
            memory.append(resident_mib())
            if number % max(1, num_frames // 10) == 0:
                print(f"{number} frames, {memory[-1]:.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        entry = run_pipelined(predictor, Repeated(movie, num_frames), Path(folder), on_frame)
    steps_ms = 1000 * np.diff(times)
    tenth, part = max(1, len(steps_ms) // 10), max(1, len(memory) // 10)
    return {
        "frames": entry["frames"],
        "frames_per_second": entry["frames_per_second"],
        "memory_mib": {
            "second_tenth": statistics.median(memory[part : 2 * part] or memory),
            "last_tenth": statistics.median(memory[-part:]),
            "highest": max(memory),
        },
        "frame_ms": {
            name: {"p50": float(np.median(steps)), "p99": float(np.percentile(steps, 99))}
            for name, steps in (("second_tenth", steps_ms[tenth : 2 * tenth]), ("last_tenth", steps_ms[-tenth:]))
        },
    }


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    predictor = StreamingPredictor(args.run, image_size=args.size, score_threshold=0.25, threads=args.threads)
    result: dict[str, Any] = {"size": args.size, "threads": torch.get_num_threads(), "model": predictor.detector.name}
    with tempfile.TemporaryDirectory() as folder:
        movie = args.movie or Path(folder, "phantom.mp4")
        if args.movie is None:
            write_phantom_movie(movie, args.size, args.frames)
        if args.soak:
            result["soak"] = soak(predictor, movie, args.soak)
        else:
            result |= compare(predictor, movie, args.turns)
    print(dump_json(result, indent=1))
    if args.json is not None:
        with write_whole(args.json) as file:
            file.write(dump_json(result, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
