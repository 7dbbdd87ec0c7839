"""Files of results: a movie with the source's time stamps, JSON, tables and COCO-VID of what was found."""

import csv
import errno
import json
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ultravid.datasets import load_coco_video
from ultravid.datasets.phantom import make_phantom_video
from ultravid.datasets.readers.shown import Shown
from ultravid.evaluation.runs import load_run
from ultravid.serving import Detection, FrameDetections, TimedFrame, draw
from ultravid.serving.pipeline import run_pipeline
from ultravid.serving.writers import (
    DetectionsCsv,
    DetectionsJson,
    FramePictures,
    MovieWriter,
    Picture,
    TracksCsv,
    YoloLabels,
    read_ends,
    read_frames,
    write_coco_video,
)


def written(path, ticks, time_base, size=(32, 48), levels=None):
    """Writes a movie of grey frames and reads it back: (time stamp, grey level) of each frame, and the writer."""
    writer = MovieWriter(path, size, time_base)
    for number, tick in enumerate(ticks):
        found = FrameDetections(number, float(tick * time_base))
        writer.add(found, Picture(*[np.full((*size, 3), 20 + 5 * number, np.uint8)] * 2))
    writer.close()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    height, width = size
    levels = [image[:height, :width].mean() for _, image in frames]
    assert np.abs(levels - (20.0 + 5 * np.arange(len(ticks)))).max() < 2.5
    return [stamp for stamp, _ in frames], writer


@pytest.mark.parametrize(
    ("time_base", "ticks"),
    [
        (Fraction(1001, 24000), range(10)),
        (Fraction(1, 30000), range(0, 15015, 1001)),
        (Fraction(1, 90000), [45000 + 1501 * n for n in range(10)]),
        (Fraction(1001, 60000), [7, 8, 10]),
        (Fraction(1, 1000), [1400, 1433, 1467, 1500, 4000, 4020]),
        (Fraction(1, 15360), [512]),
        (Fraction(1, 1000), [1_700_000_000_000 + 40 * n for n in range(3)]),  # a clock that counts from 1970
    ],
)
def test_a_movie_has_the_time_stamps_of_its_source_exactly(tmp_path, time_base, ticks):
    stamps, writer = written(tmp_path / "a.mp4", ticks, time_base)
    assert stamps == [tick * time_base for tick in ticks]
    assert (writer.moved_s, writer.num_adjusted) == (0, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # a browser can begin before the file's end


def test_odd_sides_get_a_copy_of_the_last_row_and_column(tmp_path):
    stamps, _ = written(tmp_path / "a.mp4", range(3), Fraction(1, 25), size=(33, 47))
    assert len(stamps) == 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (34, 48)


def test_no_trace_of_a_box_stays_in_the_frames_after_it(tmp_path):
    scan = make_phantom_video(24, 128, np.random.default_rng((0, 0))).frames
    writer = MovieWriter(tmp_path / "a.mp4", (128, 128), Fraction(1, 30))
    for number, image in enumerate(scan):
        boxes = (Detection((30 + number, 50, 55 + number, 70), 0.9, 0, 0),) if number < 12 else ()
        found = FrameDetections(number, number / 30, boxes)
        picture = draw(image, found)
        writer.add(found, Picture(picture, picture))
    writer.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    orange = [(image[..., 0] - image[..., 2]).max() for image in frames]
    assert min(orange[:12]) > 120 and max(orange[12:]) < 30


def test_time_stamps_that_an_mp4_can_not_have_are_moved_and_counted(tmp_path):
    stamps, writer = written(tmp_path / "a.mp4", [-2, 0, 2], Fraction(1, 50))
    assert stamps == [0, Fraction(2, 50), Fraction(4, 50)] and writer.moved_s == Fraction(2, 50)
    stamps, writer = written(tmp_path / "b.mp4", [0, 5, 5], Fraction(1, 50))
    assert stamps == [0, Fraction(5, 50), Fraction(6, 50)] and writer.num_adjusted == 1
    pause = 2400 * 10**6  # of 40 minutes by a clock of microseconds, more than the 31 bits that FFmpeg takes
    stamps, writer = written(tmp_path / "c.mp4", [0, pause, pause + 40_000], Fraction(1, 10**6))
    longest = Fraction(2**31 - 2, 10**6)
    assert stamps == [0, longest, longest + Fraction(1, 25)] and writer.num_adjusted == 2


class Stream:
    """Grey frames; the rest of a `RecordingStream` as far as it is asked for."""

    def __init__(self, num_frames, *, is_live=False, fails_at=None):
        self.size, self.is_live, self.fps, self.time_base = (40, 60), is_live, 25.0, Fraction(1, 25)
        self.shown = Shown(None, (), self.size, None)
        self.num_given, self.is_closed = 0, threading.Event()
        self._num_frames, self._fails_at = num_frames, fails_at

    def __iter__(self):
        for index in range(self._num_frames):
            if self.is_closed.is_set():
                return
            if index == self._fails_at:
                raise OSError(errno.EIO, "the camera is gone")
            self.num_given += 1
            yield TimedFrame(index, index / 25, np.full((*self.size, 3), index % 256, np.uint8))

    def close(self):
        self.is_closed.set()


def detect(frame):
    found = [Detection((10.0 + frame.index, 5.0, 30.0 + frame.index, 25.0), 0.9, 0, 0)] if frame.index % 3 else []
    found += [Detection((0.0, 0.0, 8.0, 8.0), 0.2, 1, None)] if frame.index == 4 else []
    return FrameDetections(frame.index, frame.pts_s, tuple(found))


def all_writers(folder, stream, names=("benign", "malignant")):
    return [
        MovieWriter(folder / "a.mp4", stream.size, stream.time_base),
        DetectionsCsv(folder / "a.csv", names),
        TracksCsv(folder / "a.tracks.csv", names),
        YoloLabels(folder / "labels", "a", stream.size),
        FramePictures(folder / "a_frames"),
        DetectionsJson(folder / "a.json", "a.avi", stream.size, names, {"fps": stream.fps}, lambda: {"damage": []}),
    ]


def test_every_file_says_the_same_of_every_frame(tmp_path):
    stream = Stream(8)
    writers = all_writers(tmp_path, stream)
    seen = []
    report = run_pipeline(
        stream,
        detect,
        writers,
        paint=lambda frame, found: Picture(frame.image, frame.image),
        before_writing=lambda images: seen.append(len(images)),
        num_first=3,
    )
    assert (report.num_frames, report.num_detections, seen) == (8, 6, [3])
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content)[:3] == ["source", "width", "height"] and content["damage"] == []
    assert content == {**read_ends(tmp_path / "a.json"), "frames": list(read_frames(tmp_path / "a.json"))}
    assert [f["index"] for f in content["frames"]] == list(range(8))
    box = {"box": [14.0, 5.0, 34.0, 25.0], "score": 0.9, "class": "benign", "class_id": 0, "track_id": 0}
    low = {"box": [0.0, 0.0, 8.0, 8.0], "score": 0.2, "class": "malignant", "class_id": 1, "track_id": None}
    assert content["frames"][4] == {"index": 4, "pts_s": 0.16, "detections": [box, low]}
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [int(r["index"]) for r in rows] == [1, 2, 4, 4, 5, 7]
    assert (rows[2]["x1"], rows[2]["pts_s"], rows[2]["track_id"], rows[3]["track_id"]) == ("14.0", "0.16", "0", "")
    (track,) = csv.DictReader((tmp_path / "a.tracks.csv").read_text().splitlines())
    assert (track["first_index"], track["last_index"], track["num_detections"]) == ("1", "7", "5")
    labels = sorted(p.name for p in (tmp_path / "labels").iterdir())
    assert labels == [f"a_{n:06d}.txt" for n in (1, 2, 4, 5, 7)]
    assert (
        tmp_path / "labels/a_000004.txt"
    ).read_text() == "0 0.4 0.375 0.333333 0.5 0\n1 0.0666667 0.1 0.133333 0.2\n"
    assert len(list((tmp_path / "a_frames").iterdir())) == 8

    coco, results = tmp_path / "coco.json", tmp_path / "results.json"
    write_coco_video(coco, results, [tmp_path / "a.json"], ("benign", "malignant"))
    (video,) = load_coco_video(json_file=coco, class_agnostic=False)
    assert [len(frame.boxes) for frame in video.frames] == [0, 1, 1, 0, 2, 1, 0, 1]
    assert video.frames[4].boxes[0].tolist() == [14, 5, 34, 25] and video.fps == 25
    (evaluated,), _ = load_run(str(results), str(coco))
    assert evaluated.scores.tolist() == pytest.approx([0.9, 0.9, 0.9, 0.2, 0.9, 0.9])
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted(
        ["a.mp4", "a.csv", "a.tracks.csv", "a.json", "coco.json", "results.json"]
    )


@pytest.mark.parametrize("where", ["decode", "detect", "draw", "write", "close"])
def test_an_error_of_any_stage_ends_all_of_them_and_leaves_nothing(tmp_path, where):
    stream = Stream(10**9, fails_at=50 if where == "decode" else None)
    if where == "close":
        stream = Stream(3)
    writers = all_writers(tmp_path, stream)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a.mp4")

    if where == "write":
        writers[2].add = fail
    if where == "close":
        writers[0].close = fail
    with pytest.raises(OSError, match="gone" if where == "decode" else "No space"):
        run_pipeline(
            stream,
            fail if where == "detect" else detect,
            writers,
            paint=fail if where == "draw" else lambda frame, found: Picture(frame.image, frame.image),
        )
    assert [p for p in Path(tmp_path).rglob("*") if p.name != "labels"] == []
    assert stream.is_closed.is_set() and stream.num_given < 100
    assert not [t for t in threading.enumerate() if t.name.startswith("ultravid-")]


def test_a_stop_completes_a_live_source_and_discards_a_recording(tmp_path):
    for is_live in (True, False):
        stream, stop = Stream(10**9, is_live=is_live), threading.Event()
        writer = MovieWriter(tmp_path / f"{is_live}.mp4", stream.size, stream.time_base)
        arguments = {"paint": lambda frame, found: Picture(frame.image, frame.image), "stop": stop}

        def after(number, stop=stop):
            if number == 20:
                stop.set()

        if is_live:
            report = run_pipeline(stream, detect, [writer], on_frame=after, **arguments)
            assert report.was_stopped and report.num_frames >= 20 and report.latency.num_dropped > 0
            with av.open(str(writer.path)) as container:
                assert sum(1 for _ in container.decode(video=0)) == report.num_frames
        else:
            with pytest.raises(KeyboardInterrupt):
                run_pipeline(stream, detect, [writer], on_frame=after, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["True.mp4"]
