"""Collects a model's detections in videos, one video at a time, and computes the metrics."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ultravid.datasets.frame_times import is_frame_number, is_time_stamp, known_rate
from ultravid.evaluation.class_metrics import classes_of, format_class_tables
from ultravid.evaluation.evaluator import DatasetEvaluator
from ultravid.evaluation.image_metrics import stills_note
from ultravid.evaluation.matching import match_video
from ultravid.evaluation.metrics import (
    IMAGE_METRICS,
    TRAINING_METRICS,
    all_metrics,
    assumed_rate_note,
    count_metrics,
    ignored_note,
    shown_metrics,
    stratum_metrics,
    why_undefined,
)
from ultravid.evaluation.prediction_store import (
    PredictionFile,
    first_fault,
    read_video,
    write_manifest,
    write_video,
)
from ultravid.evaluation.results import FrameResult, MatchedVideo, VideoResult
from ultravid.evaluation.tables import format_results, format_undefined
from ultravid.structures import Boxes, Instances
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file, require_local
from ultravid.utils.run_folder import InferenceFolder, RunFolder
from ultravid.utils.text import counted

__all__ = ["VideoDetectionEvaluator"]

logger = logging.getLogger(__name__)

_EVERY_NTH_PIXEL = 8
_NEEDED = ("video_id", "frame_index", "image_id", "instances")  # keys of an input
_RIGHT = 'It returns a list with one dict {"instances": Instances} per frame, which have pred_boxes and scores'


class VideoDetectionEvaluator(DatasetEvaluator):
    """Computes `all_metrics` of a model's detections, against the ground truth in the inputs.

    Each input has ``video_id``, ``frame_index``, ``image_id`` and ``instances`` with ``gt_boxes``; optionally ``gt_classes`` and
    ``gt_ids`` in its instances, and ``fps`` (0 or None: not known), ``frame_number`` (of the frame along the film, at that rate; without
    it ``frame_index``), ``time_s`` (its time stamp), ``ignored`` and ``ignored_crowds`` (regions to ignore, see `FrameResult`), ``patient``, ``metadata``,
    ``file_name`` and ``view`` (`FrameView`). Each output has ``instances`` with
    ``pred_boxes`` and ``scores`` (and optionally ``pred_classes``), in the same pixels. Each process gets whole videos; which
    ones does not matter. Only the frames of the current video are in memory, unless the frames of all videos come as one
    stream (inputs with ``stream_id``).

    Args:
        output_dir: folder for ``predictions/`` (`prediction_store`), ``predictions.json`` (COCO results: ``image_id``,
            ``category_id``, ``bbox`` as [x, y, width, height], ``score``; in addition ``video_id`` and ``frame_index``, and in films with gaps or
            time stamps ``frame_number`` and ``time_s``) and ``metrics.json`` with every metric. None: nothing is written. All processes must see the same folder.
        resume: reuse the videos that an interrupted evaluation finished, if model and settings are the same (`begin`); an error
            is raised if their frames or ground truth have changed. False: such videos are deleted.
        strata: metadata fields by which the metrics are stratified in addition, in ``metrics.json``.
    """

    logs_metrics = True

    def __init__(self, output_dir: str | Path | None = None, resume: bool = False, strata: Sequence[str] = ()) -> None:
        self._strata = tuple(strata)
        self.output_dir: Path | None = None
        if output_dir is not None:
            self.output_dir = require_local(output_dir, "VideoDetectionEvaluator.output_dir")
        self._resume = resume
        if type(self).evaluate is VideoDetectionEvaluator.evaluate:  # else it may return more
            self.metric_names = (*TRAINING_METRICS, *IMAGE_METRICS)
        self.reset()

    @property
    def _output(self) -> InferenceFolder | None:
        return None if self.output_dir is None else InferenceFolder(self.output_dir)

    def settings(self) -> dict[str, Any]:
        """The fields by which metrics are stratified."""
        return {"strata": list(self._strata)}

    def reset(self) -> None:
        """Forget all videos."""
        self._open: dict[str, _OpenVideo] = {}  # videos whose frames are still coming
        self._matched: dict[str, MatchedVideo] = {}  # finished videos
        self._files: dict[str, Path] = {}  # their prediction files
        self._stored: dict[str, Path] = {}  # prediction files of an interrupted evaluation that are reused
        self._replayed: tuple[str, PredictionFile] | None = None  # the one of them that was read last
        self._fingerprint = ""

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """As `DatasetEvaluator.begin`: delete the prediction files that this evaluation does not reuse, and index those that it does.

        Raises:
            UserError: ``output_dir`` is the folder of a run.
        """
        if self._output is None:
            return
        run = RunFolder(self._output.path)
        if run.attempts.exists() or run.config.exists():
            raise UserError(
                f"VideoDetectionEvaluator.output_dir={self._output.path} is the folder of a run, whose {run.metrics.name} is the "
                f"training's. Give a folder in it: {run.inference}."
            )
        self._fingerprint = fingerprint()
        if comm.is_main_process():
            self._clear(self._output)
        comm.synchronize()
        if self._resume:
            self._stored = {read_video(p).video.video_id: p for p in sorted(self._output.predictions.glob("*.npz"))}
            if self._stored and comm.is_main_process():
                logger.info("Reusing %s of an interrupted evaluation.", counted(len(self._stored), "video"))

    def _clear(self, output: InferenceFolder) -> None:
        folder = output.predictions
        folder.mkdir(parents=True, exist_ok=True)
        finished = output.manifest.exists()
        output.manifest.unlink(missing_ok=True)  # first, so that a partly deleted evaluation never looks complete
        num_deleted = 0
        for path in sorted(folder.glob("*.npz")):
            if self._resume and not finished and _fingerprint_of(path) == self._fingerprint:
                continue
            path.unlink()
            num_deleted += 1
        if num_deleted and not finished:
            why = "other weights or settings made them" if self._resume else "resume=true would reuse them"
            logger.warning(
                "%s: the files of %s of an interrupted evaluation are deleted: %s.",
                folder,
                counted(num_deleted, "video"),
                why,
            )

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """As `DatasetEvaluator.cached_outputs`: the detections that an interrupted evaluation saved; None if the video is not reused.

        Raises:
            UserError: the image or the ground truth of a frame has changed since.
        """
        _check_inputs(inputs)
        if not all(given["video_id"] in self._stored and "stream_id" not in given for given in inputs):
            return None
        return [{"instances": self._stored_frame(given)} for given in inputs]

    def _stored_frame(self, given: dict[str, Any]) -> Instances:
        video_id, index = given["video_id"], given["frame_index"]
        if self._replayed is None or self._replayed[0] != video_id:
            self._replayed = (video_id, read_video(self._stored[video_id]))
        stored = self._replayed[1]
        place = {f.frame_index: i for i, f in enumerate(stored.video.frames)}.get(index)
        now = _frame_result(given, Instances((0, 0), pred_boxes=Boxes([]), scores=torch.zeros(0)))
        frame = None if place is None else stored.video.frames[place]
        same = frame is not None and place is not None and stored.input_digests[place] == _digest(given)
        if frame is None or not same or not _same_truth(frame, now):
            raise UserError(
                f"Video {video_id!r} frame {index}: its image, size or annotation has changed since the interrupted "
                f"evaluation wrote {self._stored[video_id]}. Evaluate again without resume=true."
            )
        return Instances(
            (given["height"], given["width"]),
            pred_boxes=Boxes(torch.from_numpy(frame.boxes.copy())),
            scores=torch.from_numpy(frame.scores.copy()),
            pred_classes=torch.from_numpy(_ids_or_zeros(frame.classes).copy()),
        )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As `DatasetEvaluator.process`: add frames to their videos; a frame of another video finishes the current one.

        Raises:
            UserError: an input lacks a key, the outputs are not one dict with ``instances`` for each input, a detection is not a box
                with a finite score, or the frames of a video do not come one after the other.
        """
        _check_inputs(inputs)
        if not isinstance(outputs, list | tuple) or len(outputs) != len(inputs):
            raise UserError(f"In evaluation the model returned {_kind(outputs)} for {len(inputs)} frames. {_RIGHT}.")
        for given, output in zip(inputs, outputs, strict=True):
            video_id = given["video_id"]
            if video_id not in self._open:
                if "stream_id" not in given:
                    self._close_videos()
                self._open[video_id] = self._opened(video_id, given)
            video = self._open[video_id]
            video.frames.append(_checked(video_id, _frame_result(given, _instances_of(output).to("cpu"))))
            video.digests.append(_digest(given) if self._output is not None else 0)

    def _opened(self, video_id: str, given: dict[str, Any]) -> _OpenVideo:
        if video_id in self._matched:
            raise UserError(
                f"Video {video_id!r} frame {given['frame_index']}: the video was evaluated already. "
                "The frames of a video must come one after the other, each once."
            )
        metadata = {key: str(value) for key, value in (given.get("metadata") or {}).items()}  # a spacing is a number
        facts: Any = _rate_of(video_id, given), given.get("patient"), metadata
        classes: dict[str, Any] = {key: tuple(given.get(key) or ()) for key in ("class_names", "category_ids")}
        return _OpenVideo(VideoResult(video_id, [], *facts, **classes))

    def _close_videos(self) -> None:
        for video_id, opened in self._open.items():
            video, digests = opened.finished()
            self._check_same_frames(video)
            matched = match_video(video)  # before anything is written of a video whose times can't be used
            if self._output is not None:
                self._output.predictions.mkdir(parents=True, exist_ok=True)
                self._files[video_id] = write_video(self._output.predictions, video, self._fingerprint, digests)
            self._matched[video_id] = matched
        self._open = {}

    def _check_same_frames(self, video: VideoResult) -> None:
        """What a model finds in a frame depends on the frames before it, so a video that is reused must have the same ones."""
        path = self._stored.get(video.video_id)
        if path is None or self._replayed is None or self._replayed[0] != video.video_id:
            return
        frames, stored = ([f.frame_index for f in v.frames] for v in (video, self._replayed[1].video))
        if frames != stored:
            raise UserError(
                f"Video {video.video_id!r}: the interrupted evaluation that wrote {path} evaluated {len(stored)} frames of it, "
                f"this one {len(frames)}, or others. Evaluate again without resume=true."
            )

    def evaluate(self) -> dict[str, float] | None:
        """`metrics.shown_metrics`, which are also logged as a table; all other metrics go to ``metrics.json`` only.

        Raises:
            UserError: two processes evaluated the same video, or the files of a process are missing from the folder.
        """
        self._close_videos()
        parts = comm.gather((self._matched, self._files))
        if not comm.is_main_process():
            return None
        for video_id in sorted(video_id for matched, _ in parts for video_id in matched):
            if sum(video_id in matched for matched, _ in parts) > 1:
                raise UserError(
                    f"Video {video_id!r} was evaluated by two processes; each video must be given to one process only."
                )
        matched = {video_id: video for part, _ in parts for video_id, video in part.items()}
        videos = [matched[video_id] for video_id in sorted(matched)]
        every, counts = all_metrics(videos), count_metrics(videos)
        for stratum, values in stratum_metrics(videos, self._strata, shown_metrics(videos)).items():
            every |= {f"strata/{stratum}/{name}": value for name, value in values.items()}
        shown = {name: every[name] for name in shown_metrics(videos)}
        logger.info(
            "%d videos, %d frames, %d lesion boxes; FP in sequences per minute, FP/image in detections per image, all else in "
            "percent:\n%s",
            *(counts[f"count/{name}"] for name in ("videos", "frames", "lesion_boxes")),
            format_results(shown),
        )
        undefined = why_undefined(shown, videos)
        if len(videos) and len(videos[0].class_names) > 1 and not classes_of(videos):
            logger.warning(
                "The data have the classes %s, but the model's output names none (pred_classes), so there are no metrics per class.",
                ", ".join(videos[0].class_names),
            )
        if tables := format_class_tables(classes_of(videos), every):
            logger.info("%s", tables)
        if undefined:
            logger.info("Undefined (-, null in JSON): %s.", format_undefined(undefined))
        assumed = assumed_rate_note(shown, videos)
        if assumed:
            logger.info("%s", assumed)
        if note := stills_note(videos):
            logger.info("%s", note)
        if note := ignored_note(videos):
            logger.warning("%s", note)
        if self._output is not None:
            files = {video_id: path for _, part in parts for video_id, path in part.items()}
            self._write(self._output, {v: files[v] for v in sorted(files)}, {**every, **counts})
        return shown

    def _write(self, output: InferenceFolder, files: dict[str, Path], metrics: dict[str, float]) -> None:
        missing = [path for path in files.values() if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing: {output.path} must be one folder that all processes see.")
        with replace_file(output.coco_results) as file:
            file.write(b"[")
            for number, row in enumerate(_coco_rows(files.values())):
                file.write((", " if number else "").encode() + json.dumps(row).encode())
            file.write(b"]")
        with replace_file(output.metrics) as file:
            file.write(dump_json(metrics).encode())
        write_manifest(output.predictions, files, self._fingerprint)


class _OpenVideo:
    """A video that is being evaluated."""

    def __init__(self, described: VideoResult) -> None:
        self.described = described  # without frames
        self.frames: list[FrameResult] = []
        self.digests: list[int] = []

    def finished(self) -> tuple[VideoResult, list[int]]:
        """The video with its frames in order, and their digests.

        Raises:
            UserError: a frame was evaluated twice.
        """
        order = sorted(range(len(self.frames)), key=lambda i: self.frames[i].frame_index)
        frames = [self.frames[i] for i in order]
        for a, b in itertools.pairwise(frames):
            if a.frame_index == b.frame_index:
                raise UserError(f"Video {self.described.video_id!r} frame {a.frame_index} was evaluated twice.")
        video = dataclasses.replace(self.described, frames=frames)
        return video, [self.digests[i] for i in order]


def _rate_of(video_id: str, given: Mapping[str, Any]) -> float | None:
    try:
        return known_rate(_plain(given.get("fps")))
    except ValueError as error:
        raise UserError(f"Video {video_id!r} frame {given['frame_index']}: 'fps' is {error}.") from error


def _check_inputs(inputs: Any) -> None:
    """Refuse what a loader of the user's may lack.

    Raises:
        UserError: the inputs are no list of dicts, or one of them lacks a key.
    """
    is_list = isinstance(inputs, list | tuple)
    for given in inputs if is_list else [None]:
        if not isinstance(given, Mapping):
            raise UserError(
                f"The test loader yields {f'a list with {_kind(given)}' if is_list else _kind(inputs)}. It yields lists of items, each a dict "
                f"of one frame with image, height, width, {', '.join(_NEEDED)} (docs/reference/contracts.md)."
            )
        if lacking := [key for key in _NEEDED if key not in given]:
            raise UserError(
                f"An item of the test loader has no {' and no '.join(map(repr, lacking))}, but {', '.join(map(repr, given))}. "
                "docs/reference/contracts.md lists the keys of an item."
            )
        truth = given["instances"]
        if not hasattr(getattr(truth, "gt_boxes", None), "tensor"):
            what = f"gt_boxes that are {_kind(truth.gt_boxes)}" if hasattr(truth, "gt_boxes") else _kind(truth)
            raise UserError(
                f"Video {given['video_id']!r} frame {given['frame_index']}: the item has {what} as ground truth. Its 'instances' are "
                "Instances with gt_boxes that are Boxes."
            )


def _instances_of(output: Any) -> Any:
    """What a model found in a frame.

    Raises:
        UserError: its output is something else.
    """
    found: Any = output.get("instances") if isinstance(output, Mapping) else None
    if not all(hasattr(found, name) for name in ("pred_boxes", "scores", "to")):  # detectron2's will do
        what = (
            f"{_kind(found)} as 'instances'" if isinstance(output, Mapping) and "instances" in output else _kind(output)
        )
        raise UserError(f"In evaluation the model returned {what} for a frame. {_RIGHT}.")
    if not hasattr(found.pred_boxes, "tensor"):
        raise UserError(
            f"In evaluation the model returned pred_boxes that are {_kind(found.pred_boxes)}, not Boxes: write "
            "ultravid.structures.Boxes(pred_boxes)."
        )
    return found


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value)) or '(none)'}"
    size = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}{size}"


def _frame_result(given: dict[str, Any], found: Instances) -> FrameResult:
    truth = given["instances"].to("cpu")
    return FrameResult(
        frame_index=given["frame_index"],
        image_id=given["image_id"],
        gt_boxes=truth.gt_boxes.tensor.numpy(),
        boxes=found.pred_boxes.tensor.float().numpy(),
        scores=found.scores.float().numpy(),
        gt_track_ids=truth.gt_ids.numpy() if truth.has("gt_ids") else None,
        gt_classes=truth.gt_classes.numpy() if truth.has("gt_classes") else None,
        classes=found.pred_classes.numpy() if found.has("pred_classes") else None,
        file_name=given.get("file_name"),
        frame_number=_time_of(given, "frame_number", is_frame_number, "a whole number"),
        time_s=_time_of(given, "time_s", is_time_stamp, "a time in seconds"),
        ignored=given.get("ignored"),
        ignored_crowds=given.get("ignored_crowds"),
        view=given.get("view"),
    )


def _plain(value: Any) -> Any:
    """A number of Python for one of numpy or torch."""
    return value.item() if hasattr(value, "item") else value


def _time_of(given: Mapping[str, Any], key: str, is_right: Callable[[Any], bool], what: str) -> Any:
    """The number or the time stamp of an input; None if it has none."""
    value = given.get(key)
    plain = _plain(value)
    if plain is not None and not is_right(plain):
        raise UserError(f"Video {given['video_id']!r} frame {given['frame_index']}: {key!r} is {value!r}, not {what}.")
    return plain


def _checked(video_id: str, frame: FrameResult) -> FrameResult:
    fault = first_fault(frame.boxes, frame.scores)
    if fault is not None:
        place, what = fault
        raise UserError(f"Video {video_id!r} frame {frame.frame_index}: detection {place} of the model: {what}.")
    return frame


def _same_truth(a: FrameResult, b: FrameResult) -> bool:
    def arrays(frame: FrameResult) -> list[np.ndarray[Any, Any]]:
        regions = np.zeros((0, 4), np.float32) if frame.ignored is None else frame.ignored
        return [frame.gt_boxes, frame.track_ids, regions, _ids_or_zeros(frame.ignored_crowds, len(regions))]

    return a.image_id == b.image_id and all(map(np.array_equal, arrays(a), arrays(b)))


def _ids_or_zeros(ids: np.ndarray[Any, Any] | None, number: int = 0) -> np.ndarray[Any, Any]:
    return np.zeros(number, np.int64) if ids is None else ids


def _digest(given: dict[str, Any]) -> int:
    """Checksum of the image given to the model: of its size, and of every eighth pixel of every eighth row."""
    image = given["image"]
    seen = image[..., ::_EVERY_NTH_PIXEL, ::_EVERY_NTH_PIXEL].cpu().contiguous().numpy()
    return zlib.crc32(seen.tobytes(), zlib.crc32(str(tuple(image.shape)).encode()))


def _fingerprint_of(path: Path) -> str | None:
    """Fingerprint of the model that made a prediction file; None if the file can't be read."""
    try:
        return read_video(path).fingerprint
    except UserError as error:
        logger.warning("Not reused: %s", error)
        return None


def _coco_rows(files: Any) -> Iterator[dict[str, Any]]:
    for path in files:
        video = read_video(path).video
        ids, names = video.category_ids, video.class_names
        free = max([0, *(i for i in ids if isinstance(i, int))]) + 1  # of a class of the model that the data lack
        for frame in video.frames:
            place: dict[str, Any] = {"image_id": frame.image_id, "video_id": video.video_id}
            place["frame_index"] = frame.frame_index
            if frame.frame_number is not None or frame.time_s is not None:
                place["frame_number"] = frame.number
            if frame.time_s is not None:
                place["time_s"] = frame.time_s
            numbers = (
                _ids_or_zeros(frame.classes, len(frame.scores)).tolist() if len(names) > 1 else [0] * len(frame.scores)
            )
            for (x1, y1, x2, y2), score, n in zip(frame.boxes.tolist(), frame.scores.tolist(), numbers, strict=True):
                category = ids[n] if n < len(ids) else free + n - len(ids)
                yield {**place, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
