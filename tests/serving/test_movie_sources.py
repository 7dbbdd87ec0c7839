import itertools
import os
import re
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.serving import movies
from ultravid.datasets.readers import open_source
from ultravid.datasets.readers.stamps import StampedFrames
from ultravid.datasets.video import DataError
from ultravid.serving.sources import open_stream
from ultravid.serving.sources.ahead import ReadAhead
from ultravid.utils.errors import UserError

RATES = [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)]


def assert_frames_are_those_of(movie):
    """Each frame is the right one, at its time, with the pixels that training reads."""
    stream = open_stream(movie.path)
    frames = list(stream)
    stream.close()
    assert [movies.number_in(frame.image) for frame in frames] == movie.numbers
    assert [frame.index for frame in frames] == list(range(len(movie.numbers)))
    assert [frame.pts_s for frame in frames] == pytest.approx(movie.times_s, abs=movie.tick_s / 2 + 1e-9)
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, open_source(movie.path), strict=True))
    assert list(stream.damage) == [] and stream.size == frames[0].image.shape[:2]
    return stream


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_frames_of_a_constant_rate_come_at_their_own_time_stamps(tmp_path, rate, suffix):
    stream = assert_frames_are_those_of(movies.constant_rate(tmp_path / f"a.{suffix}", rate))
    assert stream.fps == pytest.approx(float(rate)) and stream.num_frames in (12, None) and not stream.repairs


UNEVEN = {
    "variable": lambda folder: movies.variable_rate(folder / "a.mp4"),
    "variable, B-frames": lambda folder: movies.variable_rate(folder / "a.mkv", b_frames=2),
    "B-frames": lambda folder: movies.with_b_frames(folder / "a.mp4"),
    "B-frames in a transport stream": lambda folder: movies.with_b_frames(folder / "a.ts"),
    "late start": lambda folder: movies.late_start(folder / "a.mp4"),
    "trimmed": lambda folder: movies.trimmed(folder / "a.mp4"),
    "trimmed, B-frames": lambda folder: movies.trimmed(folder / "a.mp4", b_frames=2),
    "transport stream": lambda folder: movies.transport_stream(folder / "a.ts"),
    "program stream": lambda folder: movies.constant_rate(folder / "a.vob", 25, codec="mpeg2video"),
    "bare stream": lambda folder: movies.bare_stream(folder / "a.m2v"),
    "turned": lambda folder: movies.turned(folder / "a.mp4"),
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_frames_come_in_the_order_and_at_the_times_at_which_they_are_shown(tmp_path, kind):
    assert not assert_frames_are_those_of(UNEVEN[kind](tmp_path)).repairs


def test_a_movie_whose_stamps_are_of_no_use_is_read_as_evenly_spaced_and_that_is_said(tmp_path):
    stream = assert_frames_are_those_of(movies.with_b_frames(tmp_path / "a.avi"))
    assert any("read as evenly spaced" in kind for kind, _ in stream.repairs)


def test_a_frame_whose_stamp_does_not_rise_has_the_same_time_in_training_and_serving(tmp_path):
    made = movies.constant_rate(tmp_path / "made.mkv", 25, 30)
    ticks = [40 * number + 400 * (number >= 25) for number in range(30)]
    ticks[20] = ticks[19]
    path = tmp_path / "a.mkv"
    with av.open(str(made.path)) as source, av.open(str(path), "w") as movie:
        stream = movie.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        for packet, tick in zip(packets, ticks, strict=True):
            packet.pts = packet.dts = tick
            packet.stream = stream
            movie.mux(packet)
    ticks[20] = 800  # between its neighbours
    served, trained = open_stream(path), open_source(path)
    assert [frame.pts_s for frame in served] == pytest.approx([tick / 1000 for tick in ticks])
    assert trained.times_s == pytest.approx([tick / 1000 for tick in ticks]) and trained.fps == pytest.approx(25)
    assert served.repairs == list(trained.repairs) and "those of 1 do not rise" in str(served.repairs)


@pytest.mark.parametrize("suffix", ["mkv", "vob"])
def test_of_a_movie_that_is_cut_off_all_whole_frames_come_and_then_the_damage(tmp_path, suffix):
    codec = {"vob": "mpeg2video"}.get(suffix, "libx264")
    movie = movies.truncated(movies.constant_rate(tmp_path / f"a.{suffix}", 25, 40, codec=codec), 0.7)
    stream = open_stream(movie.path)
    numbers = [movies.number_in(frame.image) for frame in stream]
    assert 10 < len(numbers) < 40 and numbers == movie.numbers[: len(numbers)]
    assert re.search(rf"a\.{suffix}: is truncated: .*{len(numbers)} (frames )?decode", "\n".join(stream.damage))
    stream.close()
    with pytest.raises(RuntimeError, match="open it again"):
        iter(stream)


def test_damage_in_the_middle_of_a_movie_is_counted_and_the_rest_is_read(tmp_path):
    path = movies.constant_rate(tmp_path / "a.mp4", 25, 40).path
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(np.random.default_rng(0).integers(0, 256, 60, np.uint8))
    path.write_bytes(data)
    stream = open_stream(path)
    frames = list(stream)
    assert len(frames) > 30 and movies.number_in(frames[-1].image) == 19
    assert any("can't be decoded without errors, the first after frame" in text for text in stream.damage)
    stream.close()


@pytest.mark.parametrize("disposal", [0, 1, 3])
def test_an_animated_gif_of_partial_frames_with_palettes_of_their_own_is_read_as_pillow_reads_it(tmp_path, disposal):
    rng = np.random.default_rng(0)
    images = []
    for number in range(5):
        image = Image.fromarray(rng.integers(0, 64, (48, 64), np.uint8), "P")
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        image.paste(7, (8 * number, 8, 8 * number + 16, 24))
        images.append(image)
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=80, disposal=[1] + [disposal] * 4)
    with Image.open(path) as gif:
        expected = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    stream = open_stream(path)
    frames = list(stream)
    stream.close()
    assert [frame.pts_s for frame in frames] == pytest.approx([0.08 * number for number in range(5)])
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, expected, strict=True))


def test_what_is_no_movie_is_refused_in_one_message(tmp_path):
    (tmp_path / "text.mp4").write_text("no movie")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    with av.open(str(tmp_path / "sound.m4a"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    cut = movies.truncated(movies.constant_rate(tmp_path / "cut.mp4", 25)).path
    for name, message in {
        "text.mp4": "can't be opened as a movie",
        "empty.mp4": "is empty",
        "pipe.mp4": "named pipe",
        "sound.m4a": "has no video stream",
        "none.mp4": "does not exist",
        cut.name: "it is truncated",
    }.items():
        with pytest.raises(DataError, match=rf"{name}.*{message}"):
            open_stream(tmp_path / name)


def test_a_stride_keeps_the_numbers_and_times_of_the_frames_that_are_left(tmp_path):
    movie = movies.variable_rate(tmp_path / "a.mp4")
    stream = open_stream(movie.path, vid_stride=5)
    frames = list(stream)
    assert [frame.index for frame in frames] == [0, 5, 10] and stream.num_frames == 3
    assert [frame.pts_s for frame in frames] == pytest.approx([movie.times_s[n] for n in (0, 5, 10)], abs=1e-4)
    stream.close()
    with pytest.raises(UserError, match="vid_stride is 0"):
        open_stream(movie.path, vid_stride=0)


def test_a_stream_can_be_closed_before_its_end(tmp_path):
    stream = open_stream(movies.constant_rate(tmp_path / "a.mp4", 25, 40).path)
    assert next(iter(stream)).index == 0
    stream.close()
    assert list(stream.repairs) == []


def test_who_waits_for_a_frame_waits_no_longer_when_another_thread_closes_the_stream():
    may_go_on = threading.Event()

    def slow():
        yield 1
        may_go_on.wait(5)

    items = ReadAhead(slow())
    assert next(items) == 1
    waiting = threading.Thread(target=lambda: found.extend(items))
    found = []
    waiting.start()
    threading.Timer(0.1, may_go_on.set).start()
    items.close()
    waiting.join(5)
    assert not waiting.is_alive() and found == []


def stamped(stamps, interval=Fraction(1, 25), held=16):
    frames = StampedFrames(Fraction(1, 100), interval, held)
    found = [each for n, stamp in enumerate(stamps) for each in frames.add(n, stamp)] + list(frames.end())
    assert [number for number, _ in found] == list(range(len(stamps)))
    times = [round(100 * time_s, 6) for _, time_s in found]
    assert all(a < b for a, b in itertools.pairwise(times))
    return times, frames


def test_a_frame_without_a_stamp_that_rises_lies_between_its_neighbours():
    good = [4 * n for n in range(20)]
    assert stamped([*good[:17], 64, 68, 76])[0] == [*good[:17], 66, 68, 76]
    times, frames = stamped([*good[:17], None, 72])
    assert times == [*good[:17], 68, 72] and (frames.missing, frames.not_rising) == (1, 0)
    assert stamped([*good[:17], 68, None])[0] == [*good[:17], 68, 72]
    assert stamped([])[0] == []


@pytest.mark.parametrize(
    ("places", "value"),
    [([5, 6], 16), ([3, 9], None), ([3, 9], -4), ([4], 3000), ([0], 3000), ([2, 3, 4], 8), ([1, 2, 3, 4], None)],
)
def test_a_few_wrong_stamps_at_the_beginning_leave_the_others_as_they_are(places, value):
    uneven = list(itertools.accumulate([4, 4, 6, 4, 4, 9] * 5))
    times, frames = stamped([value if n in places else stamp for n, stamp in enumerate(uneven)])
    assert all(time == stamp for n, (time, stamp) in enumerate(zip(times, uneven, strict=True)) if n not in places)
    assert not frames.is_even and not frames.restarts
    assert frames.missing + frames.not_rising == len(places) and frames.missing == (value is None) * len(places)


def test_stamps_of_no_use_make_a_film_evenly_spaced_and_a_clock_that_is_set_back_is_shifted():
    times, frames = stamped([None] * 5)
    assert times == [0, 4, 8, 12, 16] and frames.is_even
    times, frames = stamped([4, 12, 16, 8, 24, 20])
    assert times == [4, 8, 12, 16, 20, 24] and frames.is_even
    times, frames = stamped([0] * 20)
    assert times == [4 * n for n in range(20)] and frames.is_even and not frames.restarts
    times, frames = stamped([1000, 1004, 1008] + [4 * n for n in range(40)])
    assert frames.not_rising == 3 and times[3:] == [4 * n for n in range(40)]
    times, frames = stamped([1000 + 4 * n for n in range(8)] + [4 * n for n in range(40)])
    assert times == [1000 + 4 * n for n in range(48)] and frames.restarts == 1
    times, frames = stamped([1000 + 4 * n for n in range(20)] + [4 * n for n in range(40)])
    assert times == [1000 + 4 * n for n in range(60)] and frames.restarts == 1 and not frames.not_rising
