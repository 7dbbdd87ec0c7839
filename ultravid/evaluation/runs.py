"""Predictions of a run or of COCO results, joined with their ground truth, and the checks before runs are compared."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.boxes import is_number
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.coco_annotations import CocoAnnotations, Id
from ultravid.datasets.json_files import read_json
from ultravid.datasets.patients import PatientRule, note_spellings, patient_key, patient_rule
from ultravid.datasets.video import FrameView
from ultravid.evaluation.coco_files import (
    Detections,
    FrameDetections,
    join_detections,
    read_annotations,
    read_coco_detections,
)
from ultravid.evaluation.matching import match_video
from ultravid.evaluation.metrics import TRAINING_METRICS, all_metrics, ignored_note
from ultravid.evaluation.prediction_store import find_manifest, read_videos
from ultravid.evaluation.records import EvaluationRecord, check_record, command_to_evaluate, evaluation_of, record_about
from ultravid.evaluation.results import MatchedVideo, VideoResult
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import is_local
from ultravid.utils.text import shown

__all__ = ["check_metrics", "check_same_videos", "evaluated", "in_order_of", "load_run", "load_videos"]

logger = logging.getLogger(__name__)

Patients = str | Path | Mapping[str, str] | None

_TOLERANCE = 1e-3


def load_videos(
    predictions: str | Path, annotations: str | Path | None = None, patients: Patients = None
) -> Iterator[VideoResult]:
    """The videos of a file or folder of predictions, with their ground truth.

    Args:
        predictions: COCO results at any address (needs ``annotations``), or a run's own files: its local folder or its manifest.
        annotations: COCO-VID file at any address; it replaces the ground truth in a run's own files, and sets the order of the videos.
        patients: a rule for patients or the address of a table, as readers of datasets take them
            (`ultravid.datasets.patients.patient_rule`), or patients by video name. A table comes first, then what annotations
            state, then the patient in a run's own files; a rule is for the videos whose patient these do not say, or which
            version 0.1 may have guessed. None: what the files say.

    Raises:
        UserError: something can't be used; the message names file, video and frame.
    """
    rule = PatientRule(patients) if isinstance(patients, Mapping) else patient_rule(patients)
    rows = read_json(predictions) if not is_local(predictions) or Path(predictions).is_file() else None
    own = not isinstance(rows, list)
    if isinstance(rows, dict) and isinstance(rows.get("annotations"), list):
        if "images" in rows:
            raise UserError(f"{predictions}: holds annotations, not predictions; give it by --annotations.")
        raise UserError(
            f"{predictions}: holds an object; COCO's results are a plain list of {{image_id, category_id, bbox, score}}, here the "
            "value of 'annotations'."
        )
    if own and not is_local(predictions):
        raise UserError(
            f"{predictions}: is not a list of COCO results; a run's own predictions must be in a local folder."
        )
    if annotations is None:
        if not own:
            raise UserError(
                f"{predictions}: COCO results have no ground truth; give the annotations too (--annotations)."
            )
        yield from _with_patients(read_videos(find_manifest(Path(predictions))), rule, predictions)
        return
    truth = read_annotations(annotations, rule)
    if not own:
        _note_stated(annotations, rule, rule.num_stated, len(truth.videos))
        detections = read_coco_detections(predictions, rows, truth)
        if len(truth.categories) > 1 and _knows_one_class(predictions):
            logger.warning(
                "%s: its model was evaluated with one class, so there are no metrics per class.", predictions
            )
            detections = {image_id: in_frame._replace(classes=None) for image_id, in_frame in detections.items()}
        yield from join_detections(truth, detections)
        return
    found, stored, views = _own_detections(find_manifest(Path(predictions)), truth)
    for name, (patient, guessed) in stored.items():
        rule.num_stated += patient is not None and not guessed and rule.decided(name)
    _note_stated(predictions, rule, rule.num_stated, len(stored))
    for video in join_detections(truth, found):
        patient, guessed = stored[video.video_id]
        frames = [replace(f, view=views.get(f.image_id)) for f in video.frames]
        video = replace(video, frames=frames)
        is_better = video.patient is None or (not guessed and rule.decided(video.video_id))
        if patient is not None and is_better:
            video = replace(video, patient=patient, patient_guessed=guessed)
        yield video


def _note_stated(path: str | Path, rule: PatientRule, number: int, total: int) -> None:
    """Warn that a rule is not used for videos whose patients are known without it."""
    if rule.text and number:
        text = "%s: states the patients of %d of %d videos; the rule %r is not used for them."
        logger.warning(text, path, number, total, rule.text)


def _with_patients(videos: Iterator[VideoResult], rule: PatientRule, path: str | Path) -> Iterator[VideoResult]:
    """The videos of a run's own files with the patients that a table names, or that a rule finds for those that are not known."""
    names = []
    for video in videos:
        names.append(video.video_id)
        found = rule.patient(video.video_id, None if video.patient_guessed else video.patient)
        yield video if found is None else replace(video, patient=found, patient_guessed=False)
    _note_stated(path, rule, rule.num_stated, len(names))
    faults = FileFaults(path)
    rule.check(names, faults)
    for warning in faults.close():
        logger.warning("%s", warning)


def _knows_one_class(predictions: str | Path) -> bool:
    """Whether COCO results are those of an evaluation of ours with one class, which gives all detections the same category."""
    record = record_about(Path(predictions)) if is_local(predictions) else None
    classes = (record.content.get("seen") or {}).get("classes") if record is not None else None
    return isinstance(classes, dict) and len(classes.get("names") or ()) == 1


def _own_detections(
    manifest: Path, truth: CocoAnnotations
) -> tuple[Detections, dict[str, tuple[str | None, bool]], dict[Id, FrameView | None]]:
    """The detections of a run's own files; by video the patient, and whether it was guessed; by image what it shows of its file."""
    found: dict[Id, FrameDetections] = {}
    stored: dict[str, tuple[str | None, bool]] = {}
    views: dict[Id, FrameView | None] = {}
    for video in read_videos(manifest):
        stored[video.video_id] = (video.patient, video.patient_guessed)
        numbers = _numbers_in(truth, video) if video.has_classes else None
        for frame in video.frames:
            where = f"{manifest.parent}: video {video.video_id!r} frame {frame.frame_index}"
            if frame.image_id not in truth.images:
                raise UserError(f"{where}: image {frame.image_id!r} is not in {truth.path}.")
            named = truth.videos[truth.images[frame.image_id].video_id].name
            if named != video.video_id:
                raise UserError(f"{where}: image {frame.image_id!r} is of video {named!r} in {truth.path}.")
            classes = None if numbers is None or frame.classes is None else numbers(frame.classes)
            found[frame.image_id] = FrameDetections(frame.boxes, frame.scores, classes)
            views[frame.image_id] = frame.view
    for image_id in truth.images:
        if image_id not in found:
            number = len(truth.images) - len(found)
            raise UserError(
                f"{manifest.parent}: {truth.where(image_id)} of {truth.path} was not evaluated ({number} frames were not). "
                "Give annotations of the evaluated videos, or none: the run's files contain their own."
            )
    return found, stored, views


def _numbers_in(truth: CocoAnnotations, video: VideoResult) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """From the numbers of classes in a run's video to those in the annotations; the names say which is which.

    Raises:
        UserError: the annotations have no such class.
    """
    names = list(truth.categories.values())
    for name in video.class_names:
        if name not in names:
            raise UserError(
                f"{truth.path}: has no category {name!r}, a class of the run's detections (video {video.video_id!r}); its "
                f"categories are {', '.join(names)}."
            )
    number = np.array([names.index(name) for name in video.class_names], np.int64)
    last, beyond = len(number) - 1, len(names) - len(number)  # a model may have more classes than its data name
    return lambda classes: np.where(classes <= last, number[np.minimum(classes, last)], classes + beyond)


def load_run(
    predictions: str | Path, annotations: str | Path | None = None, patients: Patients = None
) -> tuple[list[MatchedVideo], dict[str, str]]:
    """The matched videos of a run, and a hash of each video's frames and ground truth by video id.

    Raises:
        UserError: the predictions can't be read, as in `load_videos`, contain no video, or are not those that the record beside
            them describes (`ultravid.evaluation.records`).
    """
    evaluated(predictions)
    matched, truths = [], {}
    for video in load_videos(predictions, annotations, patients):
        matched.append(match_video(video))
        truths[video.video_id] = _truth_text(video)
    if not matched:
        raise UserError(f"{predictions}: contains no video; there is nothing to evaluate.")
    if note := ignored_note(matched):
        logger.warning("%s: %s", predictions, note)
    faults = FileFaults(predictions)
    note_spellings(matched, faults)
    for warning in faults.close():
        logger.warning("%s", warning)
    return matched, truths


def evaluated(predictions: str | Path) -> EvaluationRecord | None:
    """The record of the evaluation that made predictions; None if there is none.

    Raises:
        UserError: there are no predictions, the evaluation has not ended, or the predictions are not the ones that it wrote.
    """
    used = _file_of(predictions)
    return None if used is None else check_record(used)


def check_metrics(
    predictions: str | Path, videos: Sequence[MatchedVideo], annotations: str | Path | None = None
) -> None:
    """Refuse the ``metrics.json`` beside predictions if it is not of their evaluation; does nothing if there is none.

    Without a record, as in version 0.1, its values are compared with those of the predictions.

    Args:
        predictions: as for `load_run`.
        videos: the first result of `load_run`.
        annotations: as for `load_run`; with other ground truth than the evaluation's the values can't be compared.

    Raises:
        UserError: the metrics were changed, or are those of another evaluation.
    """
    used = _file_of(predictions)
    if used is None:
        return
    folder = evaluation_of(used)
    if (
        not folder.metrics.is_file()
        or used == folder.metrics
        or (folder.manifest != used and folder.coco_results != used)
    ):
        return
    record = check_record(folder.metrics)
    is_explained = record is not None and not (record.is_of_predictions and record_about(used) is None)
    if is_explained or annotations is not None:
        return
    written = read_json(folder.metrics)
    known = all_metrics(videos)
    has_stills = any(video.is_still for video in videos)
    for name in TRAINING_METRICS:
        if has_stills and name.startswith("FP"):
            continue  # version 0.1 took a still for a thirtieth of a second
        value = written.get(name, known[name]) if isinstance(written, dict) else None
        if not _same_value(value, known[name]):
            raise UserError(
                f"{folder.metrics}: its {name} is {shown(value)}, but that of the predictions beside it is {known[name]:.4f}: it is of "
                f"another evaluation or was edited, and no record explains it. Evaluate again: {command_to_evaluate(folder)}"
            )


def _same_value(written: Any, known: float) -> bool:
    if isinstance(written, float) and math.isnan(written):
        return math.isnan(known)
    if not is_number(written):
        return written is None and math.isnan(known)
    return bool(written == known or abs(written - known) < _TOLERANCE)


def _file_of(predictions: str | Path) -> Path | None:
    """The manifest or the COCO results that are meant; None if they are at an address, where no record is looked for."""
    if not is_local(predictions):
        return None
    path = Path(predictions)
    return path if path.is_file() else find_manifest(path)


def in_order_of(a: Sequence[MatchedVideo], b: Sequence[MatchedVideo]) -> list[MatchedVideo]:
    """The videos of ``b`` in the order of ``a``, so that both get the same bootstrap draws of patients.

    Both must have the same videos (`check_same_videos`).

    Raises:
        UserError: a video is of different patients in the two.
    """
    by_name = {video.video_id: video for video in b}
    ordered = [by_name[video.video_id] for video in a]
    for one, other in zip(a, ordered, strict=True):
        keys = [(patient_key(v.patient), True) if v.patient_known else (v.video_id, False) for v in (one, other)]
        if keys[0] != keys[1]:
            of = [f"patient {v.patient!r}" if v.patient_known else "an unknown patient" for v in (one, other)]
            raise UserError(
                f"Video {one.video_id!r} is of {of[0]} in A and of {of[1]} in B; state the patients with --patients."
            )
    return [replace(other, patient=one.patient) for one, other in zip(a, ordered, strict=True)]


def _truth_text(video: VideoResult) -> str:
    """A hash of the frames, lesions and regions to ignore, and one of the frames' times, which rates a minute and delays depend on."""
    text = repr([(f.image_id, f.frame_index, f.gt_boxes.tolist()) for f in video.frames])
    regions = [
        (f.image_id, f.ignored.tolist(), None if f.ignored_crowds is None else f.ignored_crowds.tolist())
        for f in video.frames
        if f.ignored is not None
    ]
    text += repr(regions) if regions else ""
    times = video.times()
    of_times = b"a still"
    if len(video.frames) > 1:
        of_times = f"{times.is_assumed}".encode() + times.times_s.tobytes() + times.ticks.tobytes()
    return "/".join(hashlib.sha256(content).hexdigest() for content in (text.encode(), of_times))


def check_same_videos(a: tuple[str | Path, Mapping[str, str]], b: tuple[str | Path, Mapping[str, str]]) -> None:
    """Refuse to compare runs over different videos, frames or lesions.

    Args:
        a: the path of a run, and the second result of `load_run`.
        b: the same of the other run.

    Raises:
        UserError: they differ; the message names the first video that differs.
    """
    (path_a, of_a), (path_b, of_b) = a, b
    alone: Sequence[tuple[str | Path, str | Path, list[str]]] = [
        (path_a, path_b, sorted(set(of_a) - set(of_b))),
        (path_b, path_a, sorted(set(of_b) - set(of_a))),
    ]
    for path, other, videos in alone:
        if videos:
            raise UserError(
                f"{path} has video {videos[0]!r}, {other} does not ({len(videos)} such videos); compare the same videos."
            )
    for video_id in sorted(of_a):
        (frames_a, times_a), (frames_b, times_b) = (text[video_id].split("/") for text in (of_a, of_b))
        if frames_a == frames_b and times_a != times_b:
            raise UserError(
                f"Video {video_id!r} has another frame rate or other times of its frames in {path_a} than in {path_b}, so false "
                "positives a minute and delays can't be compared. State the same rate for both and evaluate them again, or give "
                "--annotations, which then state it for both."
            )
        if frames_a != frames_b:
            raise UserError(
                f"Video {video_id!r} has other frames or other lesions in {path_a} than in {path_b}; "
                "runs can only be compared over the same ground truth."
            )
