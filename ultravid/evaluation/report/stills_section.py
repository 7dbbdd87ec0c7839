"""Report section for stills: a grid of pictures with their lesions, detections and scores, those with the worst failures first."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from ultravid.evaluation.failures import Failure
from ultravid.evaluation.report.html_page import Html, caption, element, legend, paragraph, section
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.run_files import image_finder, missing_images, read_videos
from ultravid.evaluation.report.strips import DETECTION, LESION, MarkedFrame, strip
from ultravid.evaluation.results import FrameResult, MatchedVideo

__all__ = ["stills_section"]


def stills_section(runs: Sequence[ReportRun]) -> Html | None:
    """A grid of stills for each run; None if no run has any."""
    if not any(video.is_still for run in runs for video in run.videos):
        return None
    how = (
        "Missed lesions (no detection of at least the score threshold reaches IoU 0.5) and false positives (the centre lies in no "
        "lesion) are drawn thick, other lesions and detections thin. Pictures with the worst failure come first: a lesion that is "
        "missed at any score, then by the score of a false positive, or 1 less the score that hits a missed lesion."
    )
    parts: list[Html] = []
    for run in runs:
        parts += [element("h3", None, run.name), *_grid(run)]
    colours = legend([("lesion", LESION), ("detection, with its score", DETECTION)])
    return section("stills", "Stills", caption(how), colours, *parts)


def _grid(run: ReportRun) -> list[Html]:
    failures: dict[int, list[Failure]] = defaultdict(list)
    for failure in [*run.missed, *run.false_positives]:
        failures[failure.video].append(failure)
    stills = [place for place, video in enumerate(run.videos) if video.is_still]
    order = sorted(stills, key=lambda place: -max(map(_severity, failures[place]), default=-1.0))
    shown = order[: run.options.num_timelines]
    videos = read_videos(run, {run.videos[place].video_id for place in shown})
    finder = image_finder(run)
    figures: list[Html] = []
    counts: Counter[str] = Counter()
    for place in shown:
        matched = run.videos[place]
        frame = videos[matched.video_id].frames[0]
        drawn, of_strip = strip([_marked(matched, frame, failures[place])], run.point.threshold, finder)
        counts.update(of_strip)
        title = element("figcaption", None, f"{matched.video_id}: {_text(failures[place])}")
        figures.append(element("figure", {"class": "still"}, title, drawn))
    with_failure = sum(bool(failures[place]) for place in stills)
    counted = f"{with_failure} of {len(stills)} stills have a failure at {run.point.why}."
    if len(order) > len(shown):
        counted += f" The first {len(shown)} are shown, {len(order) - len(shown)} are left out (--timelines)."
    notes = missing_images(run, counts)
    return [paragraph(counted), *notes, element("div", {"class": "grid"}, *figures)]


def _severity(failure: Failure) -> float:
    """From 0 to 1, and 2 for a lesion that is missed at any score."""
    if failure.track is None:
        return failure.score
    return 2.0 if math.isinf(failure.score) else 1 - failure.score


def _marked(video: MatchedVideo, frame: FrameResult, failures: Sequence[Failure]) -> MarkedFrame:
    missed = {failure.track for failure in failures if failure.track is not None}
    lesions = [place for place, track in enumerate(video.gt_track.tolist()) if track in missed]
    detections = {place for failure in failures for place in failure.own_detections(video, 0)}
    return MarkedFrame(frame, lesions=lesions, detections=detections)


def _text(failures: Sequence[Failure]) -> str:
    missed = sum(failure.track is not None for failure in failures)
    scores = [f"{failure.score:.3f}" for failure in failures if failure.track is None]
    parts = [f"{missed} missed {'lesion' if missed == 1 else 'lesions'}"] if missed else []
    parts += [f"false {'positive' if len(scores) == 1 else 'positives'} {', '.join(scores)}"] if scores else []
    return "; ".join(parts) or "no failure"
