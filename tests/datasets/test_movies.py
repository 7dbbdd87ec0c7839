import contextlib
import gc
import itertools
import json
import re
import shutil
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import load_tool
from tests.datasets.recordings import HEIGHT, WIDTH, number_of, numbered, write_dicom, write_movie
from ultravid.data import DataError, load_recordings, open_source
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image
from ultravid.datasets.readers.movie_times import movie_times
from ultravid.serving import open_stream
from ultravid.utils.tool import run_tool


def write_stamped(path, stamps, time_base=Fraction(1, 1000), **cover):
    """A movie whose frame number n is shown at ``stamps[n]``; ``cover`` adds a second video stream of that size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = 4
        second = container.add_stream("mjpeg", rate=25) if cover else None
        if second is not None:
            second.width, second.height, second.pix_fmt = cover["width"], cover["height"], "yuvj420p"
            image = np.zeros((second.height, second.width, 3), np.uint8)
            container.mux(second.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if second is not None:
            container.mux(second.encode())
    return path


def with_matrix(path, *matrix):
    """A copy of an MP4 whose track's display matrix is a, b, c, d."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (round(v * 65536) for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.with_name("turned.mp4").write_bytes(data)
    return path.with_name("turned.mp4")


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts", "a.vob", "a.mp4", "a.gif", "a.flv"])
def test_a_truncated_film_is_refused_with_what_it_announces(tmp_path, name):
    suffix = name.partition(".")[2]
    codec = {"avi": "mpeg4", "ts": "mpeg2video", "vob": "mpeg2video", "gif": "gif", "flv": "flv"}.get(suffix, "libx264")
    whole = tmp_path / name
    with av.open(str(whole), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb8" if suffix == "gif" else "yuv420p"
        for number in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode())
    (video,) = load_recordings(path=whole)
    assert (len(video), video.fps, video.has_own_times) == (100, 25, False)
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / name
    share = 0.75 if suffix == "avi" else 0.4  # a tiny AVI is half header
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size) + 1])
    announced = dict.fromkeys(("ts", "vob"), "(is damaged or truncated|ends in the middle of a packet)") | {
        "gif": "has no end mark"
    }
    message = announced.get(suffix, r"announces (about )?100 frames")
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        open_source(cut)


def test_an_mp4_without_its_index_is_said_to_be_truncated(tmp_path):
    path = write_movie(tmp_path / "a.mp4", range(9))
    path.write_bytes(path.read_bytes()[:-1200])
    with pytest.raises(DataError, match=r"a\.mp4: can't be opened as a movie: .*; it is truncated\."):
        open_source(path)


@pytest.mark.parametrize(("name", "codec"), [("live.webm", "libvpx"), ("a.mxf", "mpeg2video"), ("a.flv", "flv")])
def test_a_film_that_ends_inside_a_part_is_refused_where_little_is_announced(tmp_path, name, codec):
    with av.open(str(tmp_path / name), "w", options={"live": "1"} if name == "live.webm" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode())
    assert len(open_source(tmp_path / name)) == 50
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(0.9 * len(whole)) + 1])
    with pytest.raises(DataError, match=rf"{name}: .*(truncated|file announces)"):
        open_source(tmp_path / name)


def test_a_film_of_an_unknown_codec_is_one_message(tmp_path):
    film = write_movie(tmp_path / "film.mp4", range(2))
    film.write_bytes(film.read_bytes().replace(b"avc1\0\0", b"zzzz\0\0"))
    with pytest.raises(DataError, match=r"film\.mp4: can't be read: FFmpeg does not know the codec of its film"):
        open_source(film)


def test_what_an_animated_gif_leaves_open_is_counted(tmp_path):
    images = [Image.fromarray(numbered(number)).quantize(16) for number in range(4)]
    path = tmp_path / "film.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[0, 0, 80, 80], transparency=0, disposal=2)
    sink = FaultSink()
    (video,) = load_recordings(path=path, faults=sink)
    assert len(video) == 4
    said = " ".join(f"{fault.kind}: {fault.message}" for fault in sink.faults)
    assert re.search(
        r"frames without a duration, which are taken as 0\.1 s long: video 'film\.gif': 2 of 4 frames", said
    )
    assert re.search(r"transparent pixels, .*: video 'film\.gif': \d of 4 frames", said)
    images[0].save(path, save_all=True, append_images=images[1:], duration=80)
    path.write_bytes(path.read_bytes() + b"bytes after the end")
    sink = FaultSink()
    (video,) = load_recordings(path=path, faults=sink)
    assert (len(video), video.fps, sink.faults) == (4, 12.5, [])


def test_the_pause_of_a_film_is_in_its_times_and_not_in_its_rate(tmp_path):
    stamps = [1000 + 40 * n + (60_000 if n >= 6 else 0) for n in range(12)]
    (video,) = load_recordings(path=write_stamped(tmp_path / "a.mkv", stamps))
    assert video.fps == 25
    right = [(stamp - 1000) / 1000 for stamp in stamps]
    assert [frame.time_s for frame in video.frames] == pytest.approx(right)
    assert [frame.number for frame in video.frames] == list(range(12))
    assert video.times.duration_s == pytest.approx(60.48) and video.times.ticks[6] == pytest.approx(1506)
    output = tmp_path / "out"
    options = ["--format", "recordings", "--path", str(tmp_path / "a.mkv"), "--output", str(output), "--split", "test"]
    assert run_tool(load_tool("convert_dataset").main, options) == 0
    content = json.loads((output / "test.json").read_text())
    assert [image["time_s"] for image in content["images"]] == pytest.approx(right)
    assert content["videos"][0]["fps"] == 25


@pytest.mark.parametrize(
    ("steps", "fps", "is_even"),
    [
        ([33, 33, 34] * 5, 30, True),
        ([33, 33, 34, 5000, 33, 34, 33], 30, False),
        ([39, 41] * 4, 25, True),
        ([38, 42, 40, 43, 37], 25, False),
        ([40, 40, 80, 40], 25, False),
    ],
)
def test_a_film_has_the_same_rate_and_times_as_a_movie_and_as_dicom(tmp_path, steps, fps, is_even):
    stamps = [0, *itertools.accumulate(steps)]
    frames = np.zeros((len(stamps), HEIGHT, WIDTH), np.uint8)
    write_dicom(tmp_path / "a.dcm", frames, FrameTimeVector=[0, *steps])
    write_stamped(tmp_path / "b.mkv", stamps)
    one, other = load_recordings(path=tmp_path)
    assert (one.fps, other.fps) == (pytest.approx(fps, rel=2e-3), pytest.approx(one.fps))
    times = [[frame.time_s for frame in video.frames] for video in (one, other)]
    assert times == ([[None] * len(stamps)] * 2 if is_even else [pytest.approx([t / 1000 for t in stamps])] * 2)


@pytest.mark.parametrize(
    ("stamps", "time_base", "stated", "fps", "times_s", "ordered"),
    [
        ([0, 33, 67, 100, 133], 0.001, 30, 30, None, True),  # rounded to milliseconds
        ([0, 1, 2, 4, 5], 0.04, 25, 25, (0, 0.04, 0.08, 0.16, 0.2), True),  # a frame was dropped
        ([-2, -1, 0, 1], 0.04, 0, 25, None, True),
        ([0, 33, 67, 100, 5100, 5133, 5167], 0.001, 1.2, 30, (0, 0.033, 0.067, 0.1, 5.1, 5.133, 5.167), True),
        ([0, 40, 80, 80, 160, 200], 0.001, 25, 25, None, False),  # the fourth lies between its neighbours
        ([0, 40, None, 120, 500, 540], 0.001, 25, 25, (0, 0.04, 0.08, 0.12, 0.5, 0.54), False),
        ([0, 2, 1, 4, 3, 6, 5], 0.04, 25, 25, None, False),  # those of other frames
        ([0, None, 2], 0.04, 25, 25, None, False),
        ([0], 0.04, 25, 25, None, True),
        ([0, 1], 1e-9, 1e12, None, None, True),  # no rate that a film can have
    ],
)  # fmt: skip
def test_rate_and_times_follow_from_the_stamps(stamps, time_base, stated, fps, times_s, ordered):
    found = movie_times(stamps, Fraction(str(time_base)), stated)
    assert bool(found.repairs) != ordered
    assert found.fps == (fps and pytest.approx(fps, rel=2e-3)) and found.are_ordered == ordered
    assert found.times_s == (times_s and pytest.approx(times_s))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ],
)
def test_a_film_is_turned_and_mirrored_as_it_states(tmp_path, matrix, shown):
    path = write_movie(tmp_path / "a.mp4", range(2))
    source = open_source(with_matrix(path, *matrix))
    right = shown(open_source(path).read(1))
    assert source.size == right.shape[:2] and np.array_equal(source.read(1), right)


@pytest.mark.parametrize("matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (2, 0, 0, 1), (1, 0.5, 0, 1)])
def test_a_film_that_is_shown_at_another_angle_or_stretched_is_refused(tmp_path, matrix):
    path = with_matrix(write_movie(tmp_path / "a.mp4", range(2)), *matrix)
    with pytest.raises(DataError, match=r"turned\.mp4: frame 0 is shown turned by .*not by right angles"):
        open_source(path)


def test_frames_that_were_read_leave_memory_without_a_garbage_collection(tmp_path):
    path = write_movie(tmp_path / "a.mp4", range(60))
    gc.collect()
    gc.disable()
    try:
        with contextlib.closing(open_stream(path)) as stream:
            assert sum(1 for _ in stream) == 60
        kept = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert kept < 30  # those that are decoded ahead


def test_what_a_film_leaves_open_is_counted(tmp_path):
    for name in ("two.mkv", "two.mp4"):  # the other stream is a larger picture, of one frame
        write_stamped(tmp_path / name, range(0, 400, 40), width=256, height=256)
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.options = {"x264-params": "tff=1"}
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
        container.mux(stream.encode())
    sink = FaultSink()
    videos = load_recordings(path=tmp_path, faults=sink)
    expected = [("two.mkv", 10, WIDTH), ("two.mp4", 10, WIDTH), ("wide.mp4", 1, WIDTH)]
    assert [(v.video_id, len(v), v.frames[0].width) for v in videos] == expected
    said = " ".join(f"{fault.kind}: {fault.message}" for fault in sink.faults if fault.repaired)
    assert "video 'two.mkv': of the 2 video streams, number 0 of 128x96 px" in said
    assert "video 'wide.mp4': a pixel is 1.333 times as wide as high" in said
    assert "video 'wide.mp4': 1 of 1 frames" in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile film.mp4\n"),
        ("list.avi", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n"),
        ("list.mov", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_play_list_opens_no_other_file(tmp_path, name, text):
    shutil.copy(write_movie(tmp_path / "film.mp4", range(2)), tmp_path / "segment.ts")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: can't be opened as a movie"):
        open_source(tmp_path / name)
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=r"list\.txt: is not a kind of file that frames are read from"):
        open_source(tmp_path / "list.txt")


@pytest.mark.parametrize(
    "name", ["a.ts", "a.m2ts", "a.3gp", "a.flv", "a.wmv", "a.vob", "a.gif", "odd.dat", "no-suffix"]
)
def test_a_movie_is_found_by_its_content(tmp_path, name):
    suffix = name.partition(".")[2]
    kind = {"dat": "mkv", "": "mp4"}.get(suffix, suffix)
    codec = {"flv": "flv", "wmv": "wmv2", "gif": "gif"}.get(
        kind, "mpeg4" if kind in ("3gp", "mkv", "mp4") else "mpeg2video"
    )
    folder = tmp_path / "scans"
    folder.mkdir()
    with av.open(str(tmp_path / f"film.{kind}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb8" if kind == "gif" else "yuv420p"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / f"film.{kind}").rename(folder / name)
    (video,) = load_recordings(path=folder)
    assert (video.video_id, video.fps) == (name, 25)
    assert [number_of(read_frame_image(video, t)) for t in (5, 0, 3)] == [5, 0, 3]
