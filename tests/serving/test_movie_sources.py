from fractions import Fraction

import numpy as np
import pytest

from tests.serving import movies
from ultravid.datasets.readers import open_source
from ultravid.serving.sources import open_stream

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
