"""Report sections that show a run's failures: strips of its false-positive sequences and of the lesions it misses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ultravid.evaluation.failures import Failure
from ultravid.evaluation.image_metrics import stills_only
from ultravid.evaluation.report.html_page import Html, caption, element, legend, paragraph, section
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.run_files import image_finder, missing_images, read_videos
from ultravid.evaluation.report.strips import DETECTION, LESION, MarkedFrame, chosen_frames, strip
from ultravid.evaluation.results import FrameResult, VideoResult

__all__ = ["false_positives_section", "missed_section"]

_STRIP_FRAMES = 6


def false_positives_section(runs: Sequence[ReportRun]) -> Html | None:
    """Strips of the highest-scoring false-positive sequences of each run in films; None if there is no film."""
    what = (
        "Detections linked over frames of which at most 9 in 10 have their centre in a lesion, at the run's score threshold; "
        "the highest-scoring sequences first. The sequence's own boxes are drawn thick, other detections thin; a short "
        "sequence is shown with the frames around it."
    )
    failures = [run.false_positives for run in runs]
    return _failures_section("false-positives", "False-positive sequences", what, runs, failures)


def missed_section(runs: Sequence[ReportRun]) -> Html | None:
    """Strips of the lesions that each run misses in films; None if there is no film."""
    what = (
        "Lesions that no detection hits in any frame (IoU at least 0.5) at the run's score threshold. Lesions that are not "
        "hit at any score come first, longer ones before shorter ones; then the others by the highest score that hits them, "
        "rising."
    )
    return _failures_section("missed", "Missed lesions", what, runs, [run.missed for run in runs])


def _failures_section(
    identifier: str, title: str, what: str, runs: Sequence[ReportRun], failures: Sequence[Sequence[Failure]]
) -> Html | None:
    if all(stills_only(run.videos) for run in runs):
        return None
    parts: list[Html] = []
    for run, every in zip(runs, failures, strict=True):
        found = [failure for failure in every if not run.videos[failure.video].is_still]
        shown = found[: run.options.num_strips]
        counted = f"{len(found) or 'None'} at {run.point.why}."
        if len(found) > len(shown):
            counted += f" The first {len(shown)} are shown, {len(found) - len(shown)} are left out (--strips)."
        parts += [element("h3", None, run.name), paragraph(counted), *_strips(run, shown)]
    colours = legend([("lesion", LESION), ("detection, with its score", DETECTION)])
    return section(identifier, title, caption(what), colours, *parts)


def _strips(run: ReportRun, failures: Sequence[Failure]) -> list[Html]:
    videos = read_videos(run, {run.videos[failure.video].video_id for failure in failures})
    finder = image_finder(run)
    figures: list[Html] = []
    counts: Counter[str] = Counter()
    for number, failure in enumerate(failures, 1):
        video = videos[run.videos[failure.video].video_id]
        places = chosen_frames(failure.frames, _STRIP_FRAMES, len(video.frames)).tolist()
        marked = [_marked(run, failure, video.frames[place], place) for place in places]
        drawn, of_strip = strip(marked, run.point.threshold, finder)
        counts.update(of_strip)
        title = f"{number}. {video.video_id}, {_frames_text(run, failure, video)}, {_score_text(failure)}"
        figures.append(element("figure", None, element("figcaption", None, title), drawn))
    return [*missing_images(run, counts), *figures]


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
    return MarkedFrame(frame, lesions=[i for i, track in enumerate(frame.track_ids.tolist()) if track == failure.track])
