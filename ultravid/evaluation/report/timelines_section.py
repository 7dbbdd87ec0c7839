"""Report section: the scores of every run along the time of each video."""

from __future__ import annotations

from collections.abc import Sequence

from ultravid.evaluation.report.html_page import Html, caption, element, legend, section
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.strips import DETECTION, LESION
from ultravid.evaluation.report.timelines import FALSE_DETECTION, timeline
from ultravid.evaluation.results import MatchedVideo

__all__ = ["timelines_section"]


def timelines_section(runs: Sequence[ReportRun]) -> Html | None:
    """A timeline per film, those with the most failures of the first run first; None if there is no film."""
    first = runs[0]
    films = [place for place, video in enumerate(first.videos) if not video.is_still]
    if not films:
        return None
    by_name = [{video.video_id: video for video in run.videos} for run in runs]
    failures = [0] * len(first.videos)
    for failure in [*first.false_positives, *first.missed]:
        failures[failure.video] += 1
    order = sorted(films, key=lambda place: -failures[place])
    shown = order[: first.options.num_timelines]
    figures = []
    for place in shown:
        video_id = first.videos[place].video_id
        with_it = [(run, videos[video_id]) for run, videos in zip(runs, by_name, strict=True) if video_id in videos]
        drawn = timeline(
            [video for _, video in with_it],
            [run.name for run, _ in with_it],
            [run.point.threshold for run, _ in with_it],
        )
        title = element("figcaption", None, _title(first.videos[place]))
        figures.append(element("figure", {"class": "timeline"}, title, drawn))
    how = (
        "Scores from 0 to 1 along the film, in seconds (by frame number if its rate is not known): in each frame the highest-scoring detection that hits a lesion, and the "
        "highest-scoring one that does not. Green marks frames that show a lesion; the dashed line is the run's score threshold. "
        f"Videos with the most false-positive sequences and missed lesions of {first.name} come first."
    )
    if len(order) > len(shown):
        how += f" {len(shown)} of {len(order)} videos are shown, {len(order) - len(shown)} are left out (--timelines)."
    colours = legend([("lesion", LESION), ("hits a lesion", DETECTION), ("hits no lesion", FALSE_DETECTION)])
    return section("timelines", "Timelines", caption(how), colours, *figures)


def _title(video: MatchedVideo) -> str:
    patient = f"patient {video.patient}" if video.patient_known else "patient not known"
    times = video.times
    length = "frame rate not known" if times.is_assumed else f"{times.duration_s:.4g} s"
    gaps = [] if times.is_even else [f"usually {times.spacing:.3g} frames of the film apart"]
    known = (f"{k} {v}" for k, v in sorted(video.metadata.items()))
    facts = [f"{len(video.frame_index)} frames", length, *gaps, patient, *known]
    return f"{video.video_id}: {', '.join(facts)}"
