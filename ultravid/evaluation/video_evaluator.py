"""Gathers what a model says of videos, one video at a time, and computes the figures."""

from __future__ import annotations

import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ultravid.evaluation.evaluator import DatasetEvaluator
from ultravid.evaluation.matching import match_video
from ultravid.evaluation.metrics import (
    TRAINING_METRICS,
    all_metrics,
    count_metrics,
    stratum_metrics,
    why_undefined,
)
from ultravid.evaluation.prediction_store import (
    MANIFEST,
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
from ultravid.utils.file_io import dump_json, replace_file

__all__ = ["VideoDetectionEvaluator"]

logger = logging.getLogger(__name__)

_EVERY_NTH_PIXEL = 8


class VideoDetectionEvaluator(DatasetEvaluator):
    """All figures of `figures` for a model's detections, against the frames' own ground truth.

    Inputs hold ``video_id``, ``frame_index``, ``image_id`` and ``instances`` with ``gt_boxes`` and, where known,
    ``gt_classes`` and ``gt_ids``; where known, ``fps``, ``patient``, ``metadata`` and ``file_name``. Outputs hold ``instances`` with
    ``pred_boxes`` and ``scores`` (and ``pred_classes``), in the same pixels. A process holds whole videos; which ones does
    not matter. Only the frames of the present video are kept: memory is bounded by the longest one, unless the frames of
    all videos come as one stream (``stream_id``).

    Args:
        output_dir: gets ``predictions/`` (`prediction_store`), ``predictions.json`` (COCO results: ``image_id``,
            ``category_id``, ``bbox`` as [x, y, width, height], ``score``; beside them ``video_id`` and ``frame_index``) and
            ``metrics.json`` with every figure. None writes nothing. All processes must see the same folder.
        resume: take over the videos that an interrupted evaluation finished, if it was of the same weights and settings
            (`inference_on_dataset`); their frames and ground truth must not have changed. Without it they are thrown away.
    """

    def __init__(self, output_dir: str | Path | None = None, resume: bool = False, strata: Sequence[str] = ()) -> None:
        self._strata = tuple(strata)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._resume = resume
        self.reset()

    @property
    def _folder(self) -> Path | None:
        return None if self._output_dir is None else self._output_dir / "predictions"

    def reset(self) -> None:
        """See `DatasetEvaluator`."""
        self._open: dict[str, _OpenVideo] = {}
        self._judged: dict[str, MatchedVideo] = {}
        self._files: dict[str, Path] = {}
        self._stored: dict[str, Path] = {}
        self._replayed: tuple[str, PredictionFile] | None = None
        self._fingerprint = ""

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """See `DatasetEvaluator`; the folder is cleared of what this evaluation does not take over."""
        if self._folder is None:
            return
        self._fingerprint = fingerprint()
        if comm.is_main_process():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clear(self._folder)
        comm.synchronize()
        if self._resume:
            self._stored = {read_video(p).video.video_id: p for p in sorted(self._folder.glob("*.npz"))}
            if self._stored and comm.is_main_process():
                logger.info("%d videos are taken over from an interrupted evaluation.", len(self._stored))

    def _clear(self, folder: Path) -> None:
        finished = (folder / MANIFEST).exists()
        (folder / MANIFEST).unlink(missing_ok=True)  # first: what is left of a finished evaluation must not look whole
        thrown = 0
        for path in sorted(folder.glob("*.npz")):
            if self._resume and not finished and _fingerprint_of(path) == self._fingerprint:
                continue
            path.unlink()
            thrown += 1
        if thrown and not finished:
            why = "they are of other weights or settings" if self._resume else "resume=true would take them over"
            logger.warning(
                "%s: the files of %d videos of an interrupted evaluation are removed: %s.", folder, thrown, why
            )

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """See `DatasetEvaluator`.

        Raises:
            UserError: a frame's picture or ground truth is no longer what it was.
        """
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
                f"Video {video_id!r} frame {index}: its picture, size or annotation has changed since the interrupted "
                f"evaluation wrote {self._stored[video_id]}. Evaluate anew, without resume=true."
            )
        return Instances(
            (given["height"], given["width"]),
            pred_boxes=Boxes(torch.from_numpy(frame.boxes.copy())),
            scores=torch.from_numpy(frame.scores.copy()),
            pred_classes=torch.from_numpy(_known(frame.classes).copy()),
        )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See `DatasetEvaluator`."""
        for given, output in zip(inputs, outputs, strict=True):
            video_id = given["video_id"]
            if video_id not in self._open:
                if "stream_id" not in given:
                    self._close_videos()
                self._open[video_id] = self._opened(video_id, given)
            video = self._open[video_id]
            video.frames.append(_checked(video_id, _frame_result(given, output["instances"].to("cpu"))))
            video.digests.append(_digest(given) if self._folder is not None else 0)

    def _opened(self, video_id: str, given: dict[str, Any]) -> _OpenVideo:
        if video_id in self._judged:
            raise UserError(
                f"Video {video_id!r} frame {given['frame_index']}: the video was evaluated already. "
                "Its frames must come one after the other, each once."
            )
        return _OpenVideo(video_id, given.get("fps"), given.get("patient"), dict(given.get("metadata") or {}))

    def _close_videos(self) -> None:
        for video_id, opened in self._open.items():
            video, digests = opened.finished()
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._files[video_id] = write_video(self._folder, video, self._fingerprint, digests)
            self._judged[video_id] = match_video(video)
        self._open = {}

    def evaluate(self) -> dict[str, float] | None:
        """See `DatasetEvaluator`: the figures of a training's table, which goes to the log; the others go to the file.

        Raises:
            UserError: two processes evaluated one video, or a process' files are not in the folder.
        """
        self._close_videos()
        parts = comm.gather((self._judged, self._files))
        if not comm.is_main_process():
            return None
        for video_id in sorted(video_id for judged, _ in parts for video_id in judged):
            if sum(video_id in judged for judged, _ in parts) > 1:
                raise UserError(f"Video {video_id!r} was evaluated by two processes; each must be given whole videos.")
        judged = {video_id: video for part, _ in parts for video_id, video in part.items()}
        videos = [judged[video_id] for video_id in sorted(judged)]
        every, counts = all_metrics(videos), count_metrics(videos)
        for stratum, values in stratum_metrics(videos, self._strata).items():
            every |= {f"strata/{stratum}/{name}": value for name, value in values.items()}
        figures = {name: every[name] for name in TRAINING_METRICS}
        logger.info(
            "%d videos, %d frames, %d lesion boxes; FP in sequences a minute, the rest in percent:\n%s",
            *(counts[f"count/{name}"] for name in ("videos", "frames", "lesion_boxes")),
            format_results(figures),
        )
        undefined = why_undefined(figures, videos)
        if undefined:
            logger.info("Undefined (-, null in JSON): %s.", format_undefined(undefined))
        if self._output_dir is not None:
            files = {video_id: path for _, part in parts for video_id, path in part.items()}
            self._write(self._output_dir, {v: files[v] for v in sorted(files)}, {**every, **counts})
        return figures

    def _write(self, output_dir: Path, files: dict[str, Path], figures: dict[str, float]) -> None:
        lost = [path for path in files.values() if not path.is_file()]
        if lost:
            raise UserError(f"{lost[0]} is not there: {output_dir} must be one folder that all processes see.")
        with replace_file(output_dir / "predictions.json") as file:
            file.write(b"[")
            for number, row in enumerate(_coco_rows(files.values())):
                file.write((", " if number else "").encode() + json.dumps(row).encode())
            file.write(b"]")
        with replace_file(output_dir / "metrics.json") as file:
            file.write(dump_json(figures).encode())
        if self._folder is not None:
            write_manifest(self._folder, files, self._fingerprint)


class _OpenVideo:
    """A video whose frames are still coming."""

    def __init__(self, video_id: str, fps: float | None, patient: str | None, metadata: dict[str, str]) -> None:
        self.video_id, self.fps, self.patient, self.metadata = video_id, fps, patient, metadata
        self.frames: list[FrameResult] = []
        self.digests: list[int] = []

    def finished(self) -> tuple[VideoResult, list[int]]:
        """The video with its frames in order, and their digests.

        Raises:
            UserError: a frame was seen twice.
        """
        order = sorted(range(len(self.frames)), key=lambda i: self.frames[i].frame_index)
        frames = [self.frames[i] for i in order]
        for a, b in itertools.pairwise(frames):
            if a.frame_index == b.frame_index:
                raise UserError(f"Video {self.video_id!r} frame {a.frame_index} was evaluated twice.")
        video = VideoResult(self.video_id, frames, self.fps, self.patient, self.metadata)
        return video, [self.digests[i] for i in order]


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
    )


def _checked(video_id: str, frame: FrameResult) -> FrameResult:
    fault = first_fault(frame.boxes, frame.scores)
    if fault is not None:
        place, what = fault
        raise UserError(f"Video {video_id!r} frame {frame.frame_index}: detection {place} of the model: {what}.")
    return frame


def _same_truth(a: FrameResult, b: FrameResult) -> bool:
    return (
        a.image_id == b.image_id
        and np.array_equal(a.gt_boxes, b.gt_boxes)
        and np.array_equal(_known(a.gt_track_ids, len(a.gt_boxes)), _known(b.gt_track_ids, len(b.gt_boxes)))
    )


def _known(ids: np.ndarray[Any, Any] | None, number: int = 0) -> np.ndarray[Any, Any]:
    return np.zeros(number, np.int64) if ids is None else ids


def _digest(given: dict[str, Any]) -> int:
    """Of the picture a model was given: its size and every eighth pixel of every eighth row."""
    image = given["image"]
    seen = image[..., ::_EVERY_NTH_PIXEL, ::_EVERY_NTH_PIXEL].cpu().contiguous().numpy()
    return zlib.crc32(seen.tobytes(), zlib.crc32(str(tuple(image.shape)).encode()))


def _fingerprint_of(path: Path) -> str | None:
    """What made a file's predictions; None for a file that can't be used."""
    try:
        return read_video(path).fingerprint
    except UserError as error:
        logger.warning("Left out: %s", error)
        return None


def _coco_rows(files: Any) -> Iterator[dict[str, Any]]:
    for path in files:
        video = read_video(path).video
        for frame in video.frames:
            place = {"image_id": frame.image_id, "video_id": video.video_id, "frame_index": frame.frame_index}
            for (x1, y1, x2, y2), score in zip(frame.boxes.tolist(), frame.scores.tolist(), strict=True):
                yield {**place, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
