"""Clips of films with gaps: strides and windows count frames of the film."""

import logging

import numpy as np
import pytest

from ultravid.data import build_video_train_loader
from ultravid.data.samplers import Film, MemoryFrameSampler, StridedFrameSampler, WindowFrameSampler
from ultravid.datasets import Frame, Video
from ultravid.datasets.frame_times import frame_times

SAMPLERS = [
    *(StridedFrameSampler(num_frames=n, stride=s) for n, s in ((4, 1), (4, 3), (16, 5), (1, 2))),
    *(WindowFrameSampler(num_frames=n, window=w) for n, w in ((4, 9), (16, 30), (5, 3))),
    MemoryFrameSampler(num_memory=3, memory_interval=6, num_frames=4, window=5),
]


def film(*numbers, stamps=None, fps=30.0):
    return Film(frame_times(np.array(numbers), fps, stamps))


def drawn(sampler, of, frame=None, times=60):
    return [sampler.of_film(of, np.random.default_rng(k), frame).tolist() for k in range(times)]


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("number", range(len(SAMPLERS)))
def test_without_gaps_the_clips_are_the_same(number, length):
    sampler = SAMPLERS[number]
    even = film(*range(500, 500 + length))
    for k in range(30):
        expected = sampler(length, np.random.default_rng(k))
        assert np.array_equal(sampler.of_film(even, np.random.default_rng(k)), expected)
        frame = k % length
        expected = sampler.around(length, frame, np.random.default_rng(k))
        if frame in expected:  # else several clips are equally near
            assert np.array_equal(sampler.of_film(even, np.random.default_rng(k), frame), expected)


def test_a_stride_counts_frames_of_the_film_and_is_its_spacing_if_that_is_larger():
    tenth = film(*range(0, 400, 10))
    clips = drawn(StridedFrameSampler(num_frames=4, stride=4), tenth)
    assert all(np.diff(clip).tolist() == [1, 1, 1] for clip in clips)  # 10 frames of the film
    clips = drawn(StridedFrameSampler(num_frames=4, stride=15), tenth)
    assert all(np.diff(clip).tolist() == [2, 2, 2] for clip in clips)  # 20, the first that are at least 15 later
    second = film(*range(0, 40, 2))
    assert all(
        np.diff(clip).tolist() == [2, 2, 2] for clip in drawn(StridedFrameSampler(num_frames=4, stride=4), second)
    )
    # 20 numbers apart: 13 fit into a film of 20 frames only at its own spacing.
    assert np.diff(drawn(StridedFrameSampler(num_frames=13, stride=20), second)[0]).tolist() == [1] * 12
    assert drawn(StridedFrameSampler(num_frames=4, stride=2), film(3, 50))[0] == [0, 1, 1, 1]


def test_a_clip_lies_within_a_stretch_and_jumps_over_a_pause_only_to_hold_a_frame_or_if_none_is_long_enough():
    broken = film(*range(10), *range(500, 503), *range(900, 920))
    strided = StridedFrameSampler(num_frames=5, stride=2)
    starts = {clip[0] for clip in drawn(strided, broken, times=200)}
    assert starts == {0, 1, *range(13, 25)}  # 0 to 8 and 900 to 919
    assert all(np.diff(clip).tolist() == [2] * 4 for clip in drawn(strided, broken))
    assert all(11 in clip for clip in drawn(strided, broken, frame=11))  # of the stretch of three
    assert all(np.diff(clip).tolist() == [2] * 4 and 6 in clip for clip in drawn(strided, broken, frame=6))
    assert len(drawn(StridedFrameSampler(num_frames=5, stride=1), film(0, 1, 2, 50, 51, 52))[0]) == 5


def test_a_window_holds_the_frames_of_its_time():
    broken = film(*range(10), *range(500, 503), *range(900, 920))
    window = WindowFrameSampler(num_frames=4, window=8)
    assert {i for clip in drawn(window, broken, frame=11) for i in clip} == {10, 11, 12}
    assert all(11 in clip for clip in drawn(window, broken, frame=11))
    assert {i for clip in drawn(window, broken, frame=9) for i in clip} == {5, 6, 7, 8, 9}  # 505 to 513 are not there
    tenth = film(*range(0, 400, 10))  # 8 frames of the film hold one: the window is 4 frames of the video long
    assert all(np.diff(clip).tolist() == [1, 1, 1] for clip in drawn(window, tenth))
    memory = MemoryFrameSampler(num_memory=2, memory_interval=5, num_frames=2, window=3)
    assert {i for clip in drawn(memory, broken, frame=14) for i in clip[:2]} == {
        13,
        14,
    }  # 899 and earlier are not there
    pause = film(*range(6), stamps=np.array([0, 0.1, 0.2, 9.0, 9.1, 9.2]), fps=10.0)
    assert {tuple(clip) for clip in drawn(StridedFrameSampler(num_frames=3, stride=1), pause)} == {(0, 1, 2), (3, 4, 5)}


def test_the_loader_says_how_many_videos_have_gaps_and_who_cannot_count_them(caplog):
    boxes, one = np.array([[1, 1, 5, 5]], np.float32), np.zeros(1, np.int64)

    def video(name, step):
        frames = [Frame("f.png", k, 8, 8, boxes, one, one, number=7 + step * k) for k in range(8)]
        return Video(name, frames, name, 30.0)

    def build(sampler):
        with caplog.at_level(logging.INFO, "ultravid"):
            caplog.clear()
            videos = [video("even", 1), video("every third", 3)]
            loader = build_video_train_loader(
                videos=videos, frame_sampler=sampler, transforms=[], total_batch_size=1, seed=0
            )
            return loader, caplog.text

    loader, said = build(StridedFrameSampler(num_frames=3, stride=2))
    assert "1 of 2 training videos have gaps" in said and "'every third', whose frames are usually 3 frames" in said
    assert list(loader.dataset.films) == [1]
    _, said = build(lambda num_frames, rng: np.arange(3))
    assert "WARNING" in said and "function takes their frames as if there were none" in said
