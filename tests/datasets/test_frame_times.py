"""The time of frames in videos that readers make."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ultravid.datasets import DataError, Frame, Video, load_recordings
from ultravid.datasets.fingerprint import fingerprint_videos
from ultravid.datasets.readers.sidecar import Sidecar, trusted_times


def video(fps=None, **own):
    count = len(next(iter(own.values())))
    frames = [Frame("f.png", k, 8, 8, **{name: values[k] for name, values in own.items()}) for k in range(count)]
    return Video("v", frames, "p", fps)


def test_a_film_lasts_from_its_first_frame_to_its_last_and_one_usual_distance():
    plain = video(fps=23.976, number=list(range(7, 108))).times
    assert plain.duration_s == 101 / 23.976 and plain.is_even and not plain.is_assumed  # to the last bit
    assert video(number=[None] * 6).times.duration_s == 6 / 30 and video(number=[4]).times.duration_s == 1 / 30
    assert video(number=[None] * 6).times.is_assumed
    sparse = video(fps=20.0, number=[10, 20, 30, 50]).times
    assert (sparse.spacing, sparse.duration_s, sparse.is_even) == (10, 2.5, False)
    stamped = video(time_s=[1.0, 1.25, 1.5, 9.0]).times  # the rate is that of the stamps: 4 a second
    assert (stamped.fps, stamped.duration_s, stamped.is_assumed) == (4.0, 8.25, False)
    assert stamped.ticks.tolist() == [4, 5, 6, 36]
    jitter = video(fps=25.0, time_s=[0.0, 0.039, 0.083, 0.12]).times
    assert jitter.is_even


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"number": [3, 3]}, "Video 'v' frame 1: its number is 3, not above 3"),
        ({"number": [3, None]}, "Video 'v' frame 1: its number is 1, not above 3"),
        ({"time_s": [0.5, 0.25]}, "Video 'v' frame 1: its time stamp is 0.25 s, not after 0.5 s"),
        ({"time_s": [0.5, None]}, "Video 'v' frame 1: has no time stamp, but 1 other frames"),
    ],
)
def test_a_video_whose_times_do_not_rise_is_refused(own, message):
    with pytest.raises(DataError, match=message):
        video(**own)


def test_only_films_with_times_of_their_own_have_another_fingerprint():
    plain, counted, sparse = video(number=[None] * 3), video(number=[0, 1, 2]), video(number=[0, 10, 20])
    assert fingerprint_videos([plain]) == fingerprint_videos([counted]) != fingerprint_videos([sparse])


def test_a_sidecar_may_say_that_the_rate_is_not_known_or_that_the_clock_is_wrong(tmp_path):
    (tmp_path / "scan").mkdir()
    for k in range(2):
        cv2.imwrite(str(tmp_path / f"scan/{k}.png"), np.full((8, 8), k, np.uint8))
    sidecar = tmp_path / "scan.video.json"
    for fps, expected in ((0, None), (None, None), (12.5, 12.5)):
        sidecar.write_text(json.dumps({"fps": fps}))
        assert load_recordings(path=tmp_path)[0].fps == expected
    sidecar.write_text('{"fps": 1e7}')
    with pytest.raises(DataError, match=r"'fps' is 10000000.0, not a number from 1e-05 to 100,000 \(0: not known\)"):
        load_recordings(path=tmp_path)
    source = SimpleNamespace(fps=25.0, times_s=[0.0, 0.04, 5.0])
    assert trusted_times(source, Sidecar()) == trusted_times(source, Sidecar(fps=25.1)) == source.times_s
    assert trusted_times(source, Sidecar(fps=30.0)) is None
