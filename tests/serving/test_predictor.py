"""Streams of frames through one model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.serving.small_run import frames, write_run
from ultravid.datasets.readers.shown import Shown
from ultravid.serving import FrameDetections, StreamingPredictor, TimedFrame, load_detector
from ultravid.serving.live import FrameQueue
from ultravid.utils.errors import UserError


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return load_detector(write_run(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture
def predictor(detector):
    return StreamingPredictor(detector, threads=1)


def rows(instances):
    return [
        instances.pred_boxes.tensor.tolist(),
        instances.scores.tolist(),
        instances.pred_classes.tolist(),
        instances.track_ids.tolist(),
    ]


def test_ten_streams_interleaved_and_from_threads_detect_what_each_does_alone(predictor):
    videos = [frames(seed, 3, 48, 48) for seed in range(10)]

    def alone(video):
        stream = predictor.stream()
        return [rows(stream(frame, t / 25)) for t, frame in enumerate(video)]

    expected = [alone(video) for video in videos]
    assert len({str(found) for found in expected}) == 10 and all(found[0][0] for found in expected)
    streams = [predictor.stream() for _ in videos]
    interleaved = [[rows(stream(video[t])) for stream, video in zip(streams, videos, strict=True)] for t in range(3)]
    assert [list(found) for found in zip(*interleaved, strict=True)] == expected
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(alone, videos)) == expected


def test_detections_depend_on_the_frames_alone_not_on_their_times_or_kind(predictor):
    video = [np.stack([frame[..., 0], frame[..., 0] // 2, frame[..., 0] // 3], -1) for frame in frames(3, 3)]
    kinds = {
        "at another rate": lambda image, t: predictor(image, 100 + t),
        "of a slice": lambda image, t: predictor(np.repeat(image, 2, axis=1)[:, ::2], t),
        "tensor": lambda image, t: predictor(torch.from_numpy(image).permute(2, 0, 1), t),
        "tensor, channels last": lambda image, t: predictor(torch.from_numpy(image), t),
        "BGR": lambda image, t: bgr(image[..., ::-1], t),
    }
    bgr = StreamingPredictor(predictor.detector, color="BGR", threads=1)
    expected = [rows(predictor(image, t / 25)) for t, image in enumerate(video)]
    for name, detect in kinds.items():
        predictor.reset()
        assert [rows(detect(image, t)) for t, image in enumerate(video)] == expected, name
    grey = np.ascontiguousarray(video[0][..., 0])
    grey.setflags(write=False)  # as a decoder hands it out
    colored = rows(predictor.stream()(np.stack([grey] * 3, -1)))
    for kind in (grey, grey[..., None], torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        assert rows(predictor.stream()(kind)) == colored


def test_a_stream_refuses_what_does_not_continue_it_and_goes_on(predictor):
    first, second, third = frames(1, 3)
    alone = predictor.stream()
    expected = [rows(alone(frame)) for frame in (first, second)]
    stream = predictor.stream()
    assert rows(stream(first, 1.0)) == expected[0]
    for pts in (1.0, 0.5, float("nan"), float("inf"), 1e30, 10**400, 1.7e12, "2", True, [2.0]):
        with pytest.raises(UserError, match=r"Frame 1 of the stream.*\(pts\)"):
            stream(second, pts)
    with pytest.raises(UserError, match=r"is 32x64 px, the frames before it are 64x64 px.*reset"):
        stream(second[:, :32], 2.0)
    for wrong, message in (
        (second.astype(np.float32), "uint8"),
        (torch.from_numpy(second) * 2.5, "uint8, 0 to 255, got torch.float32: scale"),
        (
            torch.from_numpy(second).to("meta"),
            "dense tensor with its pixels in memory, got one that is on the device meta",
        ),
        (torch.from_numpy(second).to_sparse(), "got one that is torch.sparse_coo"),
        (second[None], r"got \(1, 64, 64, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(H, W, 3\)"),
        ([[1]], "got list"),
    ):
        with pytest.raises(UserError, match=message):
            stream(wrong, 2.0)
    assert rows(stream(second, 1.7e9)) == expected[1]  # as time.time() gives it
    stream(third)
    with pytest.raises(UserError, match="Frame 3 of the stream"):
        stream(third, 1.5)  # a frame without a time stamp between them changes nothing
    stream.reset()
    assert rows(stream(first, 0.0)) == expected[0] and stream.frame_number == 1
    assert rows(predictor.stream()(third[:, :32]))[0]


def test_the_model_gets_the_part_that_is_shown_and_boxes_are_in_pixels_of_the_whole_image(predictor):
    video = frames(2, 3, 96, 112)
    crop, blanked = (8, 16, 88, 80), ((8, 16, 40, 32),)
    stream = predictor.stream(shown=Shown(crop, blanked, (64, 80), None))
    plain = predictor.stream()
    for image in video:
        given = image.copy()
        given[16:32, 8:40] = 0
        found, expected = stream(image), plain(given[16:80, 8:88])
        torch.testing.assert_close(found.pred_boxes.tensor - torch.tensor([8.0, 16, 8, 16]), expected.pred_boxes.tensor)
        assert found.image_size == (96, 112) and rows(found)[1:] == rows(expected)[1:]
    stream.reset()
    with pytest.raises(UserError, match="not inside the image of 64x64 px"):
        stream(frames(0, 1)[0])


def test_arguments_act_and_wrong_ones_are_named(predictor):
    image = frames(0, 1, 64, 96)[0]
    every = predictor.stream()(image)
    few = StreamingPredictor(predictor.detector, score_threshold=float(every.scores.median()), threads=1)(image)
    assert 0 < len(few) < len(every) and few.scores.tolist() == every.scores[: len(few)].tolist()
    strict = StreamingPredictor(predictor.detector, iou=0.0, tracker=None, threads=1)
    assert len(strict(image)) < len(every) and not strict(image).has("track_ids")
    assert predictor.detector.model.box_predictor.nms_threshold == 0.5  # of a detector that others use too
    half = StreamingPredictor(predictor.detector, image_size=48, threads=1)
    assert half.input_size(64, 96) == (32, 48) and predictor.input_size(64, 96) == (64, 96)
    assert half(image).image_size == (64, 96) and half(image, 1.0).pred_boxes.tensor.max() > 48
    for arguments, message in (
        ({"score_threshold": 25}, "score_threshold is 25; it is a share"),
        ({"iou": -1}, "iou is -1"),
        ({"image_size": (64, 64)}, "longest side"),
        ({"color": "rgb"}, "color is 'rgb'; it is 'RGB' or 'BGR'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"tracker": "sort"}, "a tracker, or None"),
        ({"latency_budget_ms": 0}, "milliseconds above 0"),
        ({"smooth_boxes": True, "tracker": None}, "smooth_boxes needs a tracker"),
        ({"threads": 0}, "num_threads=0"),
        ({"threads": 1.5}, "num_threads=1.5"),
        ({"score_threshold": "0.5"}, "score_threshold is '0.5'; it is a share"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"iou": True}, "iou is True"),
        ({"image_size": True}, "image_size is True"),
        ({"tracker": 3}, "tracker is 3; it is 'auto', a tracker, or None"),
        ({"tracker": type(predictor.tracker)}, "tracker is <class"),
        ({"color": ["RGB"]}, "color is"),
        ({"latency_budget_ms": "40"}, "latency_budget_ms is '40'"),
        ({"smooth_boxes": "no"}, "smooth_boxes is 'no'"),
        ({"compile": 1}, "compile is 1; it is True or False"),
        ({"trust": 3}, "trust is 3"),
        ({"trust": "my.Model"}, "trust is 'my.Model'; it is a list of names"),
        ({"weights": 3}, "weights is 3"),
    ):
        with pytest.raises(UserError, match=message):
            StreamingPredictor(predictor.detector, **arguments)


@pytest.mark.parametrize("cfg", [None, 3, {"model": None}])
def test_what_is_no_config_is_refused_by_name(cfg):
    with pytest.raises(UserError, match=r"cfg is .*; it is the folder of a run"):
        StreamingPredictor(cfg)


def test_a_model_of_several_organs_asks_for_one(tmp_path):
    organs = write_run(tmp_path / "run", "fcos")
    predictor = StreamingPredictor(organs, threads=1)
    with pytest.raises(UserError, match=r"no organ 'breast': the model has no classifier per organ"):
        predictor.stream("breast")
    with pytest.raises(UserError, match=r"color is 'bgr'; it is 'RGB' or 'BGR'"):
        predictor.stream(color="bgr")
    predictor.detector.model.organs = predictor._model(None).organs = ("breast", "thyroid")
    with pytest.raises(UserError, match="organ is not known"):
        predictor(frames(0, 1)[0])
    with pytest.raises(UserError, match=r"'tyroid' is not an organ.*thyroid"):
        predictor.stream("tyroid")
    assert predictor.stream("thyroid")(frames(0, 1)[0]).has("scores")


def test_frames_that_would_come_too_late_are_dropped_and_counted():
    now = [0.0]

    def at(seconds):
        now[0] = seconds

    queue = FrameQueue(0.1, clock=lambda: now[0])
    detected = []

    def detect(takes):
        detected.append(queue.get())
        at(now[0] + takes)
        queue.done()

    for frame, time in enumerate((0.0, 0.02, 0.04)):  # a camera of 50 frames a second
        at(time)
        queue.put(frame)
    detect(0.03)  # frame 0 at 0.04: done at 0.07
    detect(0.03)  # frame 1, which is 0.05 old, at 0.10: a short delay costs no frame
    for frame, time in ((3, 0.11), (4, 0.13), (5, 0.20)):  # the detector was held up
        at(time)
        queue.put(frame)
    assert queue.report().num_dropped == 1  # frame 2 is older than the budget, whatever happens
    detect(0.3)  # frame 3 would be done at 0.23, frame 4 at 0.23 too: it is in time
    at(0.60)
    queue.put(6)
    detect(0.3)  # slower than the budget: the newest, and late
    queue.close()
    assert queue.get() is None
    report = queue.report()
    assert detected == [0, 1, 4, 6]
    assert (report.num_frames, report.num_detected, report.num_dropped, report.num_late) == (7, 4, 3, 2)
    assert report.max_latency_ms == pytest.approx(370) and "3 of them (43%) were dropped, 2 frames later" in str(report)
    assert FrameQueue(None).report().num_frames == 0


class Camera:
    """Gives its first frame, and the others while the model works on that."""

    def __init__(self, images, error=None):
        self.images, self.error = images, error
        self.is_working, self.has_given_all, self.is_closed = threading.Event(), threading.Event(), False
        self.metadata, self.shown = {}, None

    def __iter__(self):
        yield TimedFrame(0, 0.0, self.images[0])
        self.is_working.wait(10)
        for t, image in enumerate(self.images[1:], 1):
            yield TimedFrame(t, t / 25, image)
        self.has_given_all.set()
        if self.error:
            raise self.error

    def close(self):
        self.is_closed = True


def test_a_live_source_gives_the_newest_frame_and_says_what_was_dropped(predictor, caplog):
    camera = Camera(frames(4, 6), OSError("unplugged"))
    live = predictor.live(camera)
    model = live._detect

    def slow(frame):
        camera.is_working.set()
        assert camera.has_given_all.wait(10)
        return model(frame)

    live._detect = slow
    found = []

    def watch():
        for frame, detections in live:
            found.append(frame.index)
            assert isinstance(detections, FrameDetections) and detections.index == frame.index

    with pytest.raises(OSError, match="unplugged"):
        watch()
    assert found == [0, 5] and camera.is_closed
    assert (live.report.num_frames, live.report.num_dropped) == (6, 4) and "4 of them (67%) were dropped" in caplog.text


@pytest.mark.slow_models
def test_a_compiled_model_detects_the_same_from_threads(predictor):
    compiled = StreamingPredictor(predictor.detector, compile=True, threads=1)
    compiled.warm_up(48, 48)
    video = frames(5, 4, 48, 48)
    expected = [predictor(image) for image in video]

    def detect(_):
        stream = compiled.stream()
        return [stream(image) for image in video]

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(detect, range(3)):
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-2, rtol=0)
                assert ours.track_ids.tolist() == theirs.track_ids.tolist()
