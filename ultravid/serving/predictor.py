"""`StreamingPredictor`: detections and lesion tracks, frame by frame, in any number of streams.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ultravid.config import CfgNode, Node
from ultravid.data.mapper import frame_for_test
from ultravid.data.pixels import as_rgb, has_one_plane, resize_frames
from ultravid.datasets.readers.shown import Shown
from ultravid.engine.threads import set_evaluation_threads
from ultravid.modeling.detector import Tracker, VideoDetector, VideoStream
from ultravid.modeling.inference import Precision, prepare_for_inference
from ultravid.serving.live import LiveDetections
from ultravid.serving.loading import LoadedDetector, final_part, load_detector
from ultravid.serving.records import FrameDetections, TimedFrame
from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.tracking import default_tracker, is_kalman, smoothed_boxes
from ultravid.structures import Boxes, Instances
from ultravid.utils.errors import UserError
from ultravid.utils.text import shown as shown_value
from ultravid.utils.threads import NumThreads

__all__ = ["Color", "DetectionStream", "StreamingPredictor"]

_LARGEST_SIZE = 8192  # pixels; a square of this side is the largest frame that is read
_LATEST_S = 1e10  # of a time stamp: seconds since 1970 are below, milliseconds since then are above

Color = Literal["RGB", "BGR"]
Frame = NDArray[np.uint8] | Tensor
P = ParamSpec("P")
T = TypeVar("T")


class StreamingPredictor:
    """A trained detector for streams of frames.

    For example::

        predictor = StreamingPredictor("outputs/run", score_threshold=0.25)
        for frame in open_stream("scan.mp4"):
            instances = predictor(frame.image, frame.pts_s)

    A stream has a memory: calls are successive frames of one video until `reset`. The detections in a frame depend only on the frame and on
    earlier frames of its stream, not on other streams or on timing. `stream` gives independent streams of the same
    model, which may be used alternately and from several threads, each stream from one thread at a time.

    Args:
        cfg: the folder of a run, a Python or YAML config file, a config, or what `load_detector` returned.
        weights: see `load_detector`.
        device: see `load_detector`.
        image_size: longest side of the model's input in pixels: frames are scaled to it, up or down, and keep their shape. None: as the
            config's test loader has it.
        score_threshold: detections with a lower score are left out; None: all that the model gives.
        iou: IoU above which the model drops the worse of two detections of a class, in place of the value in its config.
        color: order of the channels of coloured frames.
        tracker: "auto": the model's own if it has one, else `default_tracker`; None for none.
        smooth_boxes: boxes of tracks are the tracker's estimates, not the detections of each frame. They lag a little and shake less.
        latency_budget_ms: of live sources, see `live`.
        precision: see `prepare_for_inference`.
        compile: see `prepare_for_inference`. The model is compiled at the first frame of each size, or by `warm_up`; this takes minutes.
        threads: the number of threads per operation on the CPU, set for the whole process; "auto" chooses it by the size of the model; None: the config's
            ``train.num_threads``.
        trust: see `load_detector`.

    Attributes:
        detector: what was loaded: class names, preprocessing, hash of the weights.
        class_names: by class number.

    Raises:
        UserError: an argument is wrong, or see `load_detector`.
    """

    def __init__(
        self,
        cfg: CfgNode | Node | str | Path | LoadedDetector,
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        image_size: int | None = None,
        score_threshold: float | None = None,
        iou: float | None = None,
        color: Color = "RGB",
        tracker: Tracker | Literal["auto"] | None = "auto",
        smooth_boxes: bool = False,
        latency_budget_ms: float | None = None,
        precision: Precision = "float32",
        compile: bool = False,
        threads: NumThreads | None = None,
        trust: Iterable[str] = (),
    ) -> None:
        if not isinstance(cfg, CfgNode | Node | str | Path | LoadedDetector):
            raise UserError(
                f"cfg is {shown_value(cfg)}; it is the folder of a run, a config file, a config or what load_detector returned."
            )
        _check_arguments(image_size, score_threshold, iou, color, tracker, latency_budget_ms, precision)
        _check_kind("smooth_boxes", smooth_boxes, bool, "True or False")
        _check_kind("compile", compile, bool, "True or False")
        _check_kind("weights", weights, str | Path | None, "a file, the name of a checkpoint, or None")
        if isinstance(trust, str) or not isinstance(trust, Iterable):  # letters are no names
            raise UserError(f"trust is {shown_value(trust)}; it is a list of names.")
        self.image_size = image_size
        self.score_threshold = score_threshold
        self.color = color
        self.smooth_boxes = smooth_boxes
        self.latency_budget_ms = latency_budget_ms
        self.precision = precision
        self.compile = compile
        if isinstance(cfg, LoadedDetector):
            self.detector = cfg
        else:
            self.detector = load_detector(cfg, weights=weights, device=device, trust=trust)
        self.class_names = self.detector.class_names
        if iou is not None:
            self.detector = _with_iou(self.detector, iou)
        model = self.detector.model
        train = self.detector.config.get("train") or Node()
        set_evaluation_threads(model, train.get("num_threads", "auto") if threads is None else threads)
        chosen = (model.tracker or default_tracker(score_threshold)) if isinstance(tracker, str) else tracker
        self.tracker: Tracker | None = chosen
        if smooth_boxes and not is_kalman(chosen):
            raise UserError("smooth_boxes needs a tracker with estimates of boxes, a KalmanTracker.")
        self._models: dict[tuple[int, int] | None, VideoDetector] = {}
        self._preparing = threading.Lock()
        # CUDA graphs belong to the thread that recorded them, so a compiled model runs in one thread, whichever stream asks.
        self._runner = ThreadPoolExecutor(1, "runs a compiled model") if compile else None
        if not compile:
            self._model(None)
        self._own = self.stream()

    def __call__(self, frame: Frame, pts: float | None = None) -> Instances:
        """Detections of the next frame of the predictor's own stream, as `DetectionStream.__call__`.

        Args:
            frame: uint8, an array ``(H, W, 3)`` or ``(H, W)`` (grey) or a tensor ``(3, H, W)``, ``(1, H, W)``, ``(H, W)`` or ``(H, W, 3)``.
            pts: its time stamp in seconds, larger than that of the frame before; None if it is not known.

        Returns:
            ``pred_boxes`` (XYXY, pixels of the frame), ``scores``, ``pred_classes`` and, with a tracker, ``track_ids`` (-1: no track), on the
            CPU, by falling score.

        Raises:
            UserError: it is no such frame, has another size than those before it, or its time stamp is not after theirs.
        """
        return self._own(frame, pts)

    def reset(self) -> None:
        """The next frame is the first of another video."""
        self._own.reset()

    def stream(
        self, organ: str | None = None, *, shown: Shown | None = None, color: Color | None = None
    ) -> DetectionStream:
        """A new, independent stream; all streams share the model.

        Args:
            organ: the organ that is scanned, for a model with a classifier per organ; None: that of the config's test loader.
            shown: the part of the frames that the model gets; None: the whole.
            color: None: that of the predictor.

        Raises:
            UserError: there is no such organ or color.
        """
        if organ:
            self.check_organ(organ)
        if color is not None:
            _check_word("color", color, ("RGB", "BGR"))
        own = self.detector.preprocessing.organ if organ is None else organ
        return DetectionStream(self, organ=own, shown=shown, color=color or self.color)

    def check_organ(self, organ: str) -> None:
        """Refuse an organ that the model has no classifier for.

        Args:
            organ: the name of the organ; "" if it is not known.

        Raises:
            UserError: it has none, or needs to know the organ.
        """
        if organ and not self.detector.model.organs:
            raise UserError(f"There is no organ {organ!r}: the model has no classifier per organ. Leave it out.")
        try:
            self.detector.model.organ_index(organ)
        except ValueError as error:
            raise UserError(str(error)) from None

    def detect(self, source: RecordingStream) -> Iterator[tuple[TimedFrame, FrameDetections]]:
        """Iterate over the frames of a recording with their detections, in a new stream; the model gets the part that the source shows.

        Args:
            source: the open recording.
        """
        stream = self.stream_of(source)
        for frame in source:
            yield frame, stream.frame(frame)

    def live(self, source: RecordingStream, *, clock: Callable[[], float] = time.monotonic) -> LiveDetections:
        """Iterate over the frames of a live source that can be processed in time, with their detections, in a new stream.

        Late frames are dropped, not queued: the time from the arrival of a frame to its detections is at most ``latency_budget_ms``, unless
        the model itself takes longer. Without a budget, the newest frame is always next. `LiveDetections.report` counts dropped frames.

        Args:
            source: the open source.
            clock: gives the time in seconds; a test passes its own.
        """
        return LiveDetections(
            source, self.stream_of(source).frame, latency_budget_ms=self.latency_budget_ms, clock=clock
        )

    def stream_of(self, source: RecordingStream) -> DetectionStream:
        """A new stream for the frames of ``source``: with its organ, and the part of its images that it shows."""
        organ = str(source.metadata.get("organ", ""))
        return self.stream(organ if organ in self.detector.model.organs else None, shown=source.shown, color="RGB")

    def warm_up(self, height: int, width: int) -> None:
        """Prepare the model for frames of this size, which compiles it if that was asked for, and run it once.

        Args:
            height: the height of the frames in pixels.
            width: the width of the frames in pixels.
        """
        self.stream(organ=next(iter(self.detector.model.organs), ""))(np.zeros((height, width, 3), np.uint8))

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the model's input for frames of ``height`` times ``width`` pixels."""
        image = self._input(torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, height, width))
        return int(image.shape[-2]), int(image.shape[-1])

    def _model(self, size: tuple[int, int] | None) -> VideoDetector:
        """The model, prepared for inputs of a size."""
        key = size if self.compile else None
        with self._preparing:
            if key not in self._models:
                self._models[key] = self._run(
                    prepare_for_inference, self.detector.model, key, precision=self.precision, compile=self.compile
                )
            return self._models[key]

    def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """A call of the model, in its thread if it has one."""
        return (
            function(*args, **kwargs)
            if self._runner is None
            else self._runner.submit(function, *args, **kwargs).result()
        )

    def _input(self, image: Tensor) -> Tensor:
        """A model's input for ``(3, H, W)`` uint8 RGB."""
        how = self.detector.preprocessing
        if self.image_size is None:
            return frame_for_test(image, how.area, how.image_format)
        height, width = image.shape[-2:]
        scale = self.image_size / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return frame_for_test(image if size == (height, width) else resize_frames(image, *size), None, how.image_format)


class DetectionStream:
    """One stream of frames: state, frame number and tracks. Made by `StreamingPredictor.stream`.

    Args:
        predictor: the model and what all streams share.
        organ: the organ that the frames show.
        shown: the part of the frame that the model is given; None is all of it.
        color: the order of the channels of frames.

    Attributes:
        frame_number: how many frames it has had.
    """

    def __init__(self, predictor: StreamingPredictor, *, organ: str, shown: Shown | None, color: Color) -> None:
        self.predictor = predictor
        self.organ = organ
        self.shown = shown
        self.color = color
        self.reset()

    def reset(self) -> None:
        """The next frame is the first of another video."""
        self.frame_number = 0
        self._stream: VideoStream | None = None
        self._size = (0, 0)
        self._pts: float | None = None

    def __call__(self, frame: Frame, pts: float | None = None) -> Instances:
        """Detections of the next frame.

        Args:
            frame: uint8, an array ``(H, W, 3)`` or ``(H, W)`` (grey) or a tensor ``(3, H, W)``, ``(1, H, W)``, ``(H, W)`` or ``(H, W, 3)``.
            pts: its time stamp in seconds, larger than that of the frame before; None if it is not known.

        Returns:
            ``pred_boxes`` (XYXY, pixels of the whole frame), ``scores``, ``pred_classes`` and, with a tracker, ``track_ids`` (-1: no track),
            on the CPU, by falling score.

        Raises:
            UserError: it is no such frame, has another size than those before it, or its time stamp is not after theirs.
        """
        image = as_image(frame, self.color)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        self._check(size, pts)
        part, offset = shown_part(image, self.shown)
        image = self.predictor._input(part)
        if self._stream is None:
            given = (int(image.shape[-2]), int(image.shape[-1]))
            output = (int(part.shape[-2]), int(part.shape[-1]))
            if self.predictor.detector.model.organs:
                self.predictor.check_organ(self.organ)
            model = self.predictor._model(given)
            self._stream = VideoStream(model, given, output, self.organ, tracker=self.predictor.tracker)
        found = self.predictor._run(self._stream, image)
        self.frame_number += 1
        self._size, self._pts = size, self._pts if pts is None else pts
        return self._finished(found, size, offset)

    def frame(self, frame: TimedFrame) -> FrameDetections:
        """Detections of the next frame of a source.

        Args:
            frame: an image in the stream's ``color``, ``(H, W, 3)`` uint8, with its number and time stamp.

        Raises:
            UserError: as a call.
        """
        return FrameDetections.of(frame.index, frame.pts_s, self(frame.image, frame.pts_s))

    def _check(self, size: tuple[int, int], pts: float | None) -> None:
        if pts is not None and not (_is_number(pts) and abs(pts) < _LATEST_S):
            raise UserError(
                f"Frame {self.frame_number} of the stream has the time stamp {shown_value(pts)} (pts); it is a number of seconds "
                f"below {_LATEST_S:g}, or None."
            )
        if self._stream is None:
            return
        if size != self._size:
            raise UserError(
                f"Frame {self.frame_number} of the stream is {size[1]}x{size[0]} px, the frames before it are "
                f"{self._size[1]}x{self._size[0]} px. A stream has one size: call reset(), or use another stream."
            )
        if pts is not None and self._pts is not None and pts <= self._pts:
            raise UserError(
                f"Frame {self.frame_number} of the stream is at {float(pts):.6g} s (pts), a frame before it at {float(self._pts):.6g} s: "
                "frames come in the order in which they are shown, each once. Call reset() before another video."
            )

    def _finished(self, found: Instances, size: tuple[int, int], offset: tuple[int, int]) -> Instances:
        assert self._stream is not None
        found = found.to("cpu")
        boxes = found.pred_boxes.tensor
        if self.predictor.smooth_boxes and self._stream.tracker_state is not None:
            boxes = smoothed_boxes(boxes, found.track_ids, self._stream.tracker_state, found.image_size)
        if offset != (0, 0):
            boxes = boxes + boxes.new_tensor((*offset, *offset))
        fields = {**found.get_fields(), "pred_boxes": Boxes(boxes)}
        result = Instances(size, **fields)
        threshold = self.predictor.score_threshold
        return result if threshold is None else result[result.scores >= threshold]


def _check_arguments(
    image_size: Any, score_threshold: Any, iou: Any, color: Any, tracker: Any, latency_budget_ms: Any, precision: Any
) -> None:
    for name, value in (("score_threshold", score_threshold), ("iou", iou)):
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise UserError(f"{name} is {shown_value(value)}; it is a share, a number from 0 to 1.")
    is_size = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (is_size and 1 <= image_size <= _LARGEST_SIZE):
        raise UserError(
            f"image_size is {shown_value(image_size)}; it is the longest side of the model's input in pixels, as 256, up to {_LARGEST_SIZE}."
        )
    if latency_budget_ms is not None and not (_is_number(latency_budget_ms) and latency_budget_ms > 0):
        raise UserError(
            f"latency_budget_ms is {shown_value(latency_budget_ms)}; it is a number of milliseconds above 0."
        )
    _check_word("color", color, ("RGB", "BGR"))
    _check_word("precision", precision, ("float32", "bfloat16"))
    is_tracker = not isinstance(tracker, type) and all(
        callable(getattr(tracker, method, None)) for method in ("initial_state", "update")
    )
    if tracker is not None and not is_tracker:
        _check_word("tracker", tracker, ("auto",), ", a tracker, or None")


def _check_word(name: str, word: Any, known: tuple[str, ...], others: str = "") -> None:
    if not isinstance(word, str) or word not in known:
        raise UserError(f"{name} is {shown_value(word)}; it is {' or '.join(map(repr, known))}{others}.")


def _check_kind(name: str, value: Any, kind: Any, what: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{name} is {shown_value(value)}; it is {what}.")


def _is_number(value: Any) -> bool:
    """Whether a value is a real number, one of numpy's too, and finite."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _with_iou(detector: LoadedDetector, iou: float) -> LoadedDetector:
    """A copy of a detector with another threshold of its suppression of boxes."""
    model = copy.deepcopy(detector.model)
    part = final_part(model, "nms_threshold")
    if part is None:
        raise UserError(
            f"{detector.name} does not drop detections by their IoU, so that there is no threshold to set (iou)."
        )
    setattr(part, "nms_threshold", iou)  # noqa: B010  # an attribute that not all modules have
    return dataclasses.replace(detector, model=model, nms_threshold=iou)


def as_image(frame: Frame, color: Color) -> Tensor:
    """A frame as ``(3, H, W)`` uint8 RGB; the channels of a grey one share their memory.

    Raises:
        UserError: it is none of the kinds that `DetectionStream.__call__` takes.
    """
    if isinstance(frame, Tensor):
        image = frame
        if image.is_nested or image.is_meta or image.layout is not torch.strided:
            kind = "nested" if image.is_nested else "on the device meta" if image.is_meta else str(image.layout)
            raise UserError(f"A frame is a dense tensor with its pixels in memory, got one that is {kind}.")
        if image.ndim == 3 and image.shape[0] not in (1, 3) and image.shape[2] in (1, 3):
            image = image.permute(2, 0, 1)
    elif isinstance(frame, np.ndarray):
        array = np.ascontiguousarray(frame)
        image = (
            torch.from_numpy(array if array.flags.writeable else array.copy())
            if array.dtype == np.uint8
            else torch.zeros(0)
        )
        if array.dtype == np.uint8 and image.ndim == 3:
            image = image.permute(2, 0, 1)
    else:
        raise UserError(f"A frame is a numpy array or a tensor, got {type(frame).__name__}.")
    if image.dtype != torch.uint8:
        raise UserError(f"A frame is of uint8, 0 to 255, got {frame.dtype}: scale and convert it before.")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UserError(
            f"A frame has the shape (H, W, 3) or (H, W), a tensor also (3, H, W); got {tuple(frame.shape)}."
        )
    if image.shape[0] == 1:
        return as_rgb(image)
    return image.flip(0) if color == "BGR" else image


def shown_part(image: Tensor, shown: Shown | None) -> tuple[Tensor, tuple[int, int]]:
    """The part of ``(3, H, W)`` that the model gets, with what is blanked in black, and its (x, y) in the image."""
    if shown is None:
        return image, (0, 0)
    if shown.blanked:
        image = as_rgb(image[:1].clone()) if has_one_plane(image) else image.clone()
        for x1, y1, x2, y2 in shown.blanked:
            image[: 1 if has_one_plane(image) else 3, y1:y2, x1:x2] = 0
    if shown.crop is None:
        return image, (0, 0)
    x1, y1, x2, y2 = shown.crop
    if not (0 <= x1 < x2 <= image.shape[-1] and 0 <= y1 < y2 <= image.shape[-2]):
        raise UserError(f"The part {shown.crop} is not inside the image of {image.shape[-1]}x{image.shape[-2]} px.")
    return image[:, y1:y2, x1:x2], (x1, y1)
