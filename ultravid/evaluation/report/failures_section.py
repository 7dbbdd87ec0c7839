"""Report sections that show a run's failures: strips of its false-positive sequences and of the lesions it misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ultravid.evaluation.failures import Failure
from ultravid.evaluation.prediction_store import find_manifest, read_manifest, read_video
from ultravid.evaluation.report.html_page import Html, caption, element, legend, paragraph, section
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.strips import DETECTION, LESION, ImageFinder, MarkedFrame, chosen_frames, strip
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.evaluation.runs import load_videos
from ultravid.utils.file_io import is_local
from ultravid.utils.run_folder import RunFolder

__all__ = ["false_positives_section", "missed_section"]

_STRIP_FRAMES = 6


def false_positives_section(runs: Sequence[ReportRun]) -> Html:
    """Strips of the highest-scoring false-positive sequences of each run."""
    what = (
        "Detections linked over frames of which at most 9 in 10 have their centre in a lesion, at the run's score threshold; "
        "the highest-scoring sequences first. The sequence's own boxes are drawn thick, other detections thin; a short "
        "sequence is shown with the frames around it."
    )
    failures = [run.false_positives for run in runs]
    return _failures_section("false-positives", "False-positive sequences", what, runs, failures)


def missed_section(runs: Sequence[ReportRun]) -> Html:
    """Strips of the lesions that each run misses."""
    what = (
        "Lesions that no detection hits in any frame (IoU at least 0.5) at the run's score threshold. Lesions that are not "
        "hit at any score come first, longer ones before shorter ones; then the others by the highest score that hits them, "
        "rising."
    )
    return _failures_section("missed", "Missed lesions", what, runs, [run.missed for run in runs])


def _failures_section(
    identifier: str, title: str, what: str, runs: Sequence[ReportRun], failures: Sequence[Sequence[Failure]]
) -> Html:
    parts: list[Html] = []
    for run, found in zip(runs, failures, strict=True):
        shown = found[: run.options.num_strips]
        counted = f"{len(found) or 'None'} at {run.point.why}."
        if len(found) > len(shown):
            counted += f" The first {len(shown)} are shown, {len(found) - len(shown)} are left out (--strips)."
        parts += [element("h3", None, run.name), paragraph(counted), *_strips(run, shown)]
    colours = legend([("lesion", LESION), ("detection, with its score", DETECTION)])
    return section(identifier, title, caption(what), colours, *parts)


def _strips(run: ReportRun, failures: Sequence[Failure]) -> list[Html]:
    videos = _read_videos(run, {run.videos[failure.video].video_id for failure in failures})
    finder = _image_finder(run)
    figures, num_missing = [], 0
    for number, failure in enumerate(failures, 1):
        video = videos[run.videos[failure.video].video_id]
        places = chosen_frames(failure.frames, _STRIP_FRAMES, len(video.frames)).tolist()
        marked = [_marked(run, failure, video.frames[place], place) for place in places]
        drawn, missing = strip(marked, run.point.threshold, finder)
        num_missing += missing
        title = f"{number}. {video.video_id}, {_frames_text(run, failure, video)}, {_score_text(failure)}"
        figures.append(element("figure", None, element("figcaption", None, title), drawn))
    if num_missing:
        hint = "" if run.options.images else " Give the folder that holds them now with --images DIR."
        text = f"{num_missing} images are not where the predictions say, or outside of the data's folder: only boxes are drawn.{hint}"
        figures.insert(0, caption(text))
    return figures


def _frames_text(run: ReportRun, failure: Failure, video: VideoResult) -> str:
    first, last = (video.frames[place].frame_index for place in failure.frames[[0, -1]])
    text = f"frame {first}" if first == last else f"frames {first} to {last} ({len(failure.frames)} of them)"
    times = run.videos[failure.video].times
    if times.is_assumed:
        return text
    begin, end = (f"{times.times_s[place]:.2f} s" for place in failure.frames[[0, -1]])
    return f"{text}, {begin}" if first == last else f"{text}, {begin} to {end}"


def _score_text(failure: Failure) -> str:
    return "not hit at any score" if math.isinf(failure.score) else f"highest score {failure.score:.3f}"


def _marked(run: ReportRun, failure: Failure, frame: FrameResult, place: int) -> MarkedFrame:
    """A frame of a failure, with the failure's own boxes highlighted."""
    if failure.track is None:
        return MarkedFrame(frame, detections=failure.own_detections(run.videos[failure.video], place))
    tracks = [0] * len(frame.gt_boxes) if frame.gt_track_ids is None else frame.gt_track_ids.tolist()
    return MarkedFrame(frame, lesions=[i for i, track in enumerate(tracks) if track == failure.track])


def _read_videos(run: ReportRun, wanted: set[str]) -> dict[str, VideoResult]:
    """The wanted videos, read again: the boxes of all videos of a large run do not fit into memory at once."""
    if not wanted:
        return {}
    if run.options.annotations is None:
        files = dict(read_manifest(find_manifest(run.path)))
        return {name: read_video(files[name]).video for name in sorted(wanted)}
    videos = load_videos(run.path, run.options.annotations, run.options.patients)
    return {video.video_id: video for video in videos if video.video_id in wanted}


def _image_finder(run: ReportRun) -> ImageFinder:
    """Looks for images from the folder where the run was started, and from the annotations' folder.

    The names in annotations may come from anywhere, and lead into these folders alone: a report shows what it finds.
    """
    folders = []
    run_folder = RunFolder.containing(run.path)
    record = run_folder.newest_record() if run_folder else None
    if record and record.get("folder"):
        folders.append(Path(record["folder"]))
    if run.options.annotations and is_local(run.options.annotations):
        root = Path(run.options.annotations).resolve().parent
        folders += [root, root / "rawframes"]
    return ImageFinder(folders, run.options.images, anywhere=run.options.annotations is None)
