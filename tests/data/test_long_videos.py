"""Videos of very many frames: what is kept of them, and that loading grows no memory."""

import os
import subprocess
import sys
import tracemalloc
import weakref

import cv2
import numpy as np
import pytest

from ultravid.data import Video, WindowFrameSampler, build_video_test_loader, build_video_train_loader
from ultravid.data.mapper import FrameDataset
from ultravid.datasets.video import Frame, PackedFrames


def frames_of(path, number, size=8):
    box = {
        "boxes": np.array([[1, 2, 5, 6]], np.float32),
        "classes": np.zeros(1, np.int64),
        "track_ids": np.full(1, 3, np.int64),
    }
    return (Frame(str(path), t, size, size, **(box if t % 2 else {})) for t in range(number))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), np.arange(64, dtype=np.uint8).reshape(8, 8))
    return path


def test_packed_frames_are_the_frames_that_were_given():
    crop = (1, 2, 9, 10)
    frames = [
        Frame(
            "/a/b.png", 7, 8, 9, np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), np.array([0, 2]), np.array([5, 6])
        ),
        Frame("/a/movie.mp4", "an id", 8, 8, index_in_file=0),
        Frame("/a/movie.mp4", 2**70, 8, 8, index_in_file=41, crop=crop),
        Frame("kein/ümlaut\udcff.png", -1, 3, 4),
    ]
    packed = PackedFrames(frames)
    assert len(packed) == 4 and packed.boxes_per_frame.tolist() == [2, 0, 0, 0]
    for given, found in zip(frames, packed, strict=True):
        for name in ("path", "image_id", "height", "width", "index_in_file", "crop"):
            assert getattr(found, name) == getattr(given, name)
            assert type(getattr(found, name)) is type(getattr(given, name))
        for name in ("boxes", "classes", "track_ids"):
            assert np.array_equal(getattr(found, name), getattr(given, name))
            assert getattr(found, name).dtype == getattr(given, name).dtype
    assert [f.path for f in packed[1:]] == [f.path for f in frames[1:]] and packed[-1].height == 3
    with pytest.raises(IndexError, match="There is no frame 4; there are 4"):
        packed[4]


@pytest.mark.slow_models
def test_a_video_of_100_000_frames_is_kept_in_ten_megabytes():
    frames = [Frame(f"/data/long/{t:06d}.png", t, 512, 512) for t in range(100_000)]
    one = weakref.ref(frames[50_000])
    tracemalloc.start()  # after the frames were made, which takes seconds if it is traced
    video = Video("long", frames, "p")
    dataset = FrameDataset([video, video])
    del frames
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10e6 and one() is None
    assert len(dataset) == 200_000 and video.frames[99_999].path == "/data/long/099999.png"
    assert [dataset._place(i) for i in (0, 99_999, 100_000, 199_999)] == [(0, 0), (0, 99_999), (1, 0), (1, 99_999)]


def test_foreign_frames_come_one_of_each_video_in_turn(picture):
    videos = [Video(f"v{n}", list(frames_of(picture, n)), "p") for n in (1, 3, 2)]
    order = [(item["video_id"], item["frame_index"]) for item in FrameDataset(videos, foreign_context=True)]
    assert order == [("v1", 0), ("v3", 0), ("v2", 0), ("v3", 1), ("v2", 1), ("v3", 2)]


def test_a_long_video_is_trained_and_tested_on(picture):
    video = Video("long", list(frames_of(picture, 30_000)), "p")
    loader = build_video_train_loader(
        videos=[video], frame_sampler=WindowFrameSampler(num_frames=4), transforms=[], total_batch_size=2, seed=0
    )
    (a, b) = next(loader.iterate_from(1000))
    assert max(a.frame_indices + b.frame_indices) > 30 and [len(i) for i in a.instances] == [
        t % 2 for t in a.frame_indices
    ]
    items = build_video_test_loader(videos=[video], num_workers=1)
    seen = [item["frame_index"] for (item,), _ in zip(items, range(50), strict=False)]
    assert seen == list(range(50))


GROWTH = """
import sys
from ultravid.data import RandomFlip, StridedFrameSampler, Video, build_video_train_loader
from ultravid.datasets.video import Frame
from benchmarks.data import resident_mb
import numpy as np
box = dict(boxes=np.array([[1, 2, 5, 6]], np.float32), classes=np.zeros(1, np.int64), track_ids=np.zeros(1, np.int64))
videos = [Video(f"v{v}", [Frame(sys.argv[1], t, 8, 8, **box) for t in range(5000)], "p") for v in range(4)]
loader = build_video_train_loader(videos=videos, frame_sampler=StridedFrameSampler(num_frames=4), transforms=[RandomFlip()],
                                  total_batch_size=1, seed=0, num_workers=1)
clips = loader.iterate_from(0)
seen = []
for n in range(1500):
    next(clips)
    if n in (300, 1499):
        seen.append(resident_mb())
print(seen[1] - seen[0])
"""


@pytest.mark.slow_models
def test_loading_clip_after_clip_takes_no_more_memory(picture):
    command = [sys.executable, "-c", GROWTH, str(picture)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert float(done.stdout) < 4
