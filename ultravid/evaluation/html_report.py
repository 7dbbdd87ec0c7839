"""A page on one run or several: what they are, how good, where they fail.

Everything is computed from the runs' predictions; nothing is taken from figures that were written before. With several runs
over the same videos, the first is what the others are compared with.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.bootstrap import BOOTSTRAP_FIGURES, bootstrap_metrics, paired_p_value, percentile_interval
from ultravid.evaluation.cases import Case, false_sequences, missed_lesions
from ultravid.evaluation.curves import (
    OperatingPoint,
    froc_curve,
    operating_point,
    precision_recall_curve,
    score_histogram,
)
from ultravid.evaluation.frame_ap import DetectionPool
from ultravid.evaluation.html_page import (
    Cell,
    Html,
    caption,
    command,
    element,
    page,
    paragraph,
    section,
    table,
    value_cell,
)
from ultravid.evaluation.metrics import (
    TRAINING_FIGURES,
    all_metrics,
    count_metrics,
    stratum_metrics,
    why_undefined,
)
from ultravid.evaluation.prediction_files import find_manifest, read_manifest, read_video
from ultravid.evaluation.report import format_interval, format_undefined
from ultravid.evaluation.results import FrameResult, MatchedVideo, VideoResult
from ultravid.evaluation.run_facts import run_facts
from ultravid.evaluation.runs import check_same_videos, in_order_of, load_run, load_videos
from ultravid.evaluation.strips import DETECTION, LESION, Marked, PictureFinder, chosen_frames, strip
from ultravid.evaluation.svg import COLOURS, DASHES, Axis, Series, bar_chart, line_chart
from ultravid.evaluation.timelines import FALSE_DETECTION, timeline
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder

__all__ = ["ReportOptions", "ReportRun", "load_report_runs", "report_page"]

Row = list[Cell | str]

_STRATA = ("device", "organ", "hospital")
_STRIP_FRAMES = 6
_NAN = float("nan")

_WHAT = {
    "AP50": "area under the precision envelope over recall, IoU at least 0.5, percent",
    "AP75": "the same at IoU 0.75",
    "mAP": "mean of that area over IoU 0.50, 0.55, ..., 0.95",
    "Pr70": "precision where the recall is 0.7, percent",
    "Pr80": "precision where the recall is 0.8, percent",
    "Pr90": "precision where the recall is 0.9, percent",
    "FP70": "false-positive sequences a minute where the recall is 0.7; less is better",
    "FP80": "false-positive sequences a minute where the recall is 0.8; less is better",
    "FP90": "false-positive sequences a minute where the recall is 0.9; less is better",
    "R@16": "lesion boxes that one of the 16 best detections of their frame hits, percent",
    "AR@16": "mean of R@16 over IoU 0.50, 0.55, ..., 0.95",
    "lesion/sensitivity_any@R80": "lesions found in at least one frame where the recall is 0.8, percent",
    "lesion/sensitivity_half@R80": "lesions found in at least half of their frames where the recall is 0.8, percent",
}


@dataclass(frozen=True)
class ReportOptions:
    """What a page is to hold.

    Attributes:
        annotations: COCO-VID, for runs that are COCO results.
        patients: patient by video name, over what the files say.
        images: where the pictures are now, see `PictureFinder`.
        num_draws: of patients, for intervals; 0 gives none.
        seed: of the draws.
        score_threshold: at which cases are shown; None takes that of recall 0.8.
        num_strips: strips of each kind for each run.
        num_timelines: videos that get a timeline.
        command: what makes the page again.
    """

    annotations: Path | None = None
    patients: Mapping[str, str] | None = None
    images: Path | None = None
    num_draws: int = 2000
    seed: int = 0
    score_threshold: float | None = None
    num_strips: int = 8
    num_timelines: int = 40
    command: str = ""


@dataclass(frozen=True, eq=False)
class ReportRun:
    """A run, and what is computed of it once.

    Attributes:
        name: told apart from the others'.
        path: of its predictions.
        videos: in the order of the first run's, where they are the same.
        truth: see `load_run`.
        options: of the page.
    """

    name: str
    path: Path
    videos: Sequence[MatchedVideo]
    truth: Mapping[str, str]
    options: ReportOptions

    @cached_property
    def pool(self) -> DetectionPool:
        """All its detections."""
        return DetectionPool(self.videos)

    @cached_property
    def figures(self) -> dict[str, float]:
        """All, by name."""
        return all_metrics(self.videos)

    @cached_property
    def draws(self) -> dict[str, NDArray[np.float64]]:
        """`bootstrap_metrics`; empty where no draws are wanted."""
        wanted = self.options.num_draws
        return bootstrap_metrics(self.videos, wanted, self.options.seed) if wanted else {}

    @cached_property
    def point(self) -> OperatingPoint:
        """Where its cases are shown."""
        return operating_point(self.pool, self.options.score_threshold)

    @cached_property
    def false(self) -> list[Case]:
        """Its false-positive sequences there."""
        return false_sequences(self.videos, self.point.threshold)

    @cached_property
    def missed(self) -> list[Case]:
        """The lesions that it misses there."""
        return missed_lesions(self.videos, self.point.threshold)


def load_report_runs(paths: Sequence[Path], options: ReportOptions) -> tuple[list[ReportRun], str]:
    """Read runs.

    Returns:
        the runs; and why the later ones can't be compared with the first, empty where they can.

    Raises:
        UserError: a run can't be used.
    """
    loaded = [load_run(path, options.annotations, options.patients) for path in paths]
    why = ""
    (first, truth), ordered = loaded[0], [loaded[0][0]]
    for path, (videos, other_truth) in zip(paths[1:], loaded[1:], strict=True):
        try:
            check_same_videos((paths[0], truth), (path, other_truth))
            ordered.append(in_order_of(first, videos))
        except UserError as error:
            why = why or str(error)
            ordered.append(videos)
    runs = [
        ReportRun(name, path, videos, truth, options)
        for name, path, videos, (_, truth) in zip(_names(paths), paths, ordered, loaded, strict=True)
    ]
    return runs, why


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths that tell them apart; the letters A, B, ... where nothing does."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        return [f"{chr(ord('A') + i)}: {path.name}" for i, path in enumerate(resolved)]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def report_page(runs: Sequence[ReportRun], not_compared: str = "") -> str:
    """The page.

    Args:
        runs: of `load_report_runs`.
        not_compared: why there are no differences, see there.
    """
    sections = {
        "runs": ("What was run", _runs_section(runs)),
        "figures": ("Figures", _figures_section(runs)),
        "differences": ("Differences", _differences_section(runs, not_compared) if len(runs) > 1 else None),
        "curves": ("Curves", _curves_section(runs)),
        "scores": ("Scores", _scores_section(runs)),
        "strata": ("Strata", _strata_section(runs)),
        "false-positives": ("False positives", _cases_section(runs, "false-positives")),
        "missed": ("Missed lesions", _cases_section(runs, "missed")),
        "timelines": ("Timelines", _timelines_section(runs)),
        "all-figures": ("All figures", _all_figures_section(runs)),
    }
    present = {key: (name, part) for key, (name, part) in sections.items() if part is not None}
    counts = count_metrics(runs[0].videos)
    subtitle = ", ".join(f"{n} {name.removeprefix('count/').replace('_', ' ')}" for name, n in counts.items())
    subtitle = f"{runs[0].name}: {subtitle}"
    contents = {key: name for key, (name, _) in present.items()}
    title = "Report: " + ", ".join(run.name for run in runs)
    return page(title, subtitle, [part for _, part in present.values()], contents)


def _runs_section(runs: Sequence[ReportRun]) -> Html:
    facts = [run_facts(run.path) for run in runs]
    names = list(dict.fromkeys(name for known in facts for name in known))
    head = element("tr", None, *(element("th", {"scope": "col"}, name) for name in ("", *(r.name for r in runs))))
    rows = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, name),
            *(element("td", None, known.get(name, "not known")) for known in facts),
        )
        for name in names
    ]
    body = element("thead", None, head), element("tbody", None, *rows)
    return section(
        "runs",
        "What was run",
        element("div", {"class": "wide"}, element("table", {"class": "facts"}, *body)),
        caption(
            "Read from the newest attempts/*/record.json, the saved config and the manifest of the predictions. The hashes of "
            "two runs are equal where config, weights or data are. This page was made by:"
        ),
        command(runs[0].options.command),
    )


def _figures_section(runs: Sequence[ReportRun]) -> Html:
    options = runs[0].options
    between = ["95% interval"] if options.num_draws else []
    headers = ["figure", *(text for run in runs for text in (run.name, *between)), "what it is"]
    rows: list[Row] = []
    for name in BOOTSTRAP_FIGURES:
        row: Row = [name]
        for run in runs:
            row.append(value_cell(run.figures[name]))
            if run.draws:
                interval = percentile_interval(run.draws[name])
                row.append(Cell(format_interval(interval.low, interval.high)))
        rows.append([*row, Cell(_WHAT[name], prose=True)])
    notes = []
    for run in runs:
        reasons = why_undefined({name: run.figures[name] for name in BOOTSTRAP_FIGURES}, run.videos)
        if reasons:
            notes.append(caption(f"Undefined in {run.name}: {format_undefined(reasons)}."))
    how = "Over the frames of all videos together."
    if options.num_draws:
        how += (
            f" Intervals: the middle 95% of {options.num_draws} draws of patients with replacement, each with all of his or "
            "her videos; a dash where more than 1 in 20 draws has no figure."
        )
    commands = [command(_evaluate_command(run)) for run in runs]
    again = caption("Computed again by:"), *commands
    return section("figures", "Figures", table(headers, rows, "main-figures"), *notes, caption(how), *again)


def _evaluate_command(run: ReportRun) -> str:
    options = run.options
    parts = ["python", "tools/evaluate.py", "--predictions", str(run.path), "--output-dir", "OUT"]
    parts += ["--annotations", str(options.annotations)] if options.annotations else []
    parts += ["--bootstrap", str(options.num_draws), "--seed", str(options.seed)] if options.num_draws else []
    parts += ["--strata", ",".join(_strata_fields([run]))]
    return shlex.join(parts)


def _differences_section(runs: Sequence[ReportRun], not_compared: str) -> Html | None:
    if not_compared:
        return section("differences", "Differences", paragraph(f"None are given. {not_compared}"))
    if not runs[0].draws:
        return None
    parts: list[Html] = []
    first = runs[0]
    for other in runs[1:]:
        rows: list[Row] = []
        for name in BOOTSTRAP_FIGURES:
            drawn = other.draws[name] - first.draws[name]
            interval = percentile_interval(drawn)
            low_high = Cell(format_interval(interval.low, interval.high))
            values = first.figures[name], other.figures[name], other.figures[name] - first.figures[name]
            rows.append([name, *(value_cell(v) for v in values), low_high, value_cell(paired_p_value(drawn), 4)])
        difference = f"{other.name} - {first.name}"
        parts.append(element("h3", None, difference))
        parts.append(table(["figure", first.name, other.name, "difference", "95% interval", "p"], rows))
        options = first.options
        given = ["--annotations", str(options.annotations)] if options.annotations else []
        drawn_by = ["--bootstrap", str(options.num_draws), "--seed", str(options.seed)]
        again = ["python", "tools/compare.py", str(first.path), str(other.path), *given, *drawn_by]
        parts.append(command(shlex.join(again)))
    how = caption(
        "The same patients are drawn for both runs, and the difference is taken draw by draw. An interval without 0 says that "
        "the difference is more than the choice of patients; p is two-sided. Nothing is said of another training seed, and p "
        "is not corrected for looking at many figures."
    )
    return section("differences", "Differences", how, *parts)


def _looks(runs: Sequence[ReportRun]) -> list[tuple[str, str]]:
    """Colour and dash of each run."""
    return [(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]) for i in range(len(runs))]


def _legend(entries: Sequence[tuple[str, str]]) -> Html:
    items = []
    for name, colour in entries:
        swatch = element("span", {"class": "swatch", "style": f"border-color:{colour}"})
        items.append(element("span", None, swatch, name))
    return element("div", {"class": "legend"}, *items)


def _figure(title: str, chart: Html, text: str) -> Html:
    return element("figure", None, chart, element("figcaption", None, element("b", None, f"{title}. "), text))


def _curves_section(runs: Sequence[ReportRun]) -> Html:
    looks = list(zip(runs, _looks(runs), strict=True))
    tenths = [i / 5 for i in range(6)]
    precision = [Series(run.name, precision_recall_curve(run.pool), *look) for run, look in looks]
    found = [Series(run.name, froc_curve(run.videos), *look, steps=True) for run, look in looks]
    rates = [rate for series in found for rate, _ in series.points]
    most = 2.0 ** math.ceil(math.log2(max([8.0, *rates])))
    ticks = [0.25 * 2**i for i in range(int(math.log2(most / 0.25)) + 1)]
    ticks = ticks if len(ticks) < 10 else ticks[::2]
    rate_axis = Axis("false-positive sequences a minute", 0.25, most, ticks, log=True)
    charts = [
        _figure(
            "Precision and recall",
            line_chart(
                "precision over recall", precision, Axis("recall", 0, 1, tenths), Axis("precision", 0, 1, tenths)
            ),
            "All detections of all frames by falling score, at IoU 0.5; a point at each true positive. AP50 is the area under "
            "the envelope of this curve.",
        ),
        _figure(
            "FROC",
            line_chart("sensitivity over false positives", found, rate_axis, Axis("lesions found", 0, 1, tenths)),
            "Share of lesions found in at least one frame, over false-positive sequences a minute, as the score threshold "
            "falls; rates below 0.25 are drawn at 0.25.",
        ),
    ]
    legend = _legend([(run.name, colour) for run, (colour, _) in looks])
    again = command(runs[0].options.command)
    parts = element("div", {"class": "charts"}, *charts), caption("Drawn again by:"), again
    return section("curves", "Curves", legend, *parts)


def _scores_section(runs: Sequence[ReportRun]) -> Html:
    charts = []
    for run in runs:
        histogram = score_histogram(run.pool)
        most = max(10, int(histogram.true_positives.max()), int(histogram.false_positives.max()))
        powers = range(math.ceil(math.log10(most)) + 1)
        counts = Axis("detections", 0.5, 10.0 ** powers[-1], [10.0**p for p in powers], log=True)
        groups = [
            ("true positives", histogram.true_positives.tolist(), DETECTION),
            ("false positives", histogram.false_positives.tolist(), FALSE_DETECTION),
        ]
        scores = Axis("score", 0, 1, [i / 5 for i in range(6)])
        chart = bar_chart(f"scores of {run.name}", groups, histogram.edges.tolist(), scores, counts)
        true, false = int(histogram.true_positives.sum()), int(histogram.false_positives.sum())
        charts.append(_figure(run.name, chart, f"{true} true and {false} false positives."))
    legend = _legend([("true positives", DETECTION), ("false positives", FALSE_DETECTION)])
    how = caption(
        "How many detections have which score, by true and false positives at IoU 0.5 (a second detection of a lesion that is "
        "hit already is false). The scale is logarithmic, for there are many weak false ones."
    )
    return section("scores", "Scores", legend, element("div", {"class": "charts"}, *charts), how)


def _strata_fields(runs: Sequence[ReportRun]) -> list[str]:
    known = {field for run in runs for video in run.videos for field in video.metadata}
    return [*(field for field in _STRATA if field in known), "size"]


def _strata_section(runs: Sequence[ReportRun]) -> Html:
    fields = _strata_fields(runs)
    headers = ["stratum", "run", "videos", "lesions", *TRAINING_FIGURES]
    by_run = [stratum_metrics(run.videos, fields) for run in runs]
    rows: list[Row] = []
    for name in dict.fromkeys(name for strata in by_run for name in strata):
        for run, strata in zip(runs, by_run, strict=True):
            if name in strata:
                figures = dict(strata[name])
                counts = [value_cell(figures.pop(key), 0) for key in ("videos", "lesions")]
                rows.append([name, run.name, *counts, *(value_cell(v) for v in figures.values())])
    absent = [field for field in ("device", "organ") if field not in fields]
    said = f" No video's metadata name its {' or '.join(absent)}." if absent else ""
    how = caption(
        "The figures over the videos that share a value, each stratum by itself with its own thresholds. Size is that of the "
        f"video's lesions by median area: small up to 151 squared, large from 226 squared pixels.{said}"
    )
    return section("strata", "Strata", table(headers, rows, "strata-table"), how)


def _cases_section(runs: Sequence[ReportRun], kind: str) -> Html:
    """The false-positive sequences, or the missed lesions, of each run."""
    of_lesions = kind == "missed"
    title = "Missed lesions" if of_lesions else "False-positive sequences"
    what = (
        "Lesions of which no frame is hit (IoU at least 0.5) at the run's score threshold; those that nothing ever hits come "
        "first, the longer before the shorter, then those that are hit by a higher and higher score."
        if of_lesions
        else "Detections that follow each other over frames and of which at most 9 in 10 have their centre in a lesion, at the "
        "run's score threshold; the highest-scoring first. The sequence's own boxes are drawn thick, other detections thin; "
        "a short one is shown with the frames around it."
    )
    legend = _legend([("lesion", LESION), ("detection, with its score", DETECTION)])
    parts: list[Html] = []
    for run in runs:
        cases = run.missed if of_lesions else run.false
        shown = cases[: run.options.num_strips]
        counted = f"{len(cases) or 'None'} at {run.point.why}."
        if len(cases) > len(shown):
            counted += f" The first {len(shown)} are shown, {len(cases) - len(shown)} are left out (--strips)."
        parts += [element("h3", None, run.name), paragraph(counted), *_case_strips(run, shown)]
    return section(kind, title, caption(what), legend, *parts)


def _case_strips(run: ReportRun, cases: Sequence[Case]) -> list[Html]:
    wanted = {run.videos[case.video].video_id for case in cases}
    read = _videos_named(run, wanted)
    finder = _finder(run)
    figures, lost = [], 0
    for number, case in enumerate(cases, 1):
        video = read[run.videos[case.video].video_id]
        marked = [
            _marked(run, case, video.frames[p], int(p))
            for p in chosen_frames(case.frames, _STRIP_FRAMES, len(video.frames))
        ]
        drawn, without = strip(marked, run.point.threshold, finder)
        lost += without
        first, last = (video.frames[place].frame_index for place in case.frames[[0, -1]])
        score = "nothing hits it at any score" if math.isinf(case.score) else f"highest score {case.score:.3f}"
        where = f"frame {first}" if first == last else f"frames {first} to {last} ({len(case.frames)} of them)"
        said = f"{number}. {video.video_id}, {where}, {score}"
        figures.append(element("figure", None, element("figcaption", None, said), drawn))
    if lost:
        where = "" if run.options.images else " --images DIR says where they are now."
        figures.insert(
            0, caption(f"{lost} pictures are not on disk where the predictions say: boxes alone are drawn.{where}")
        )
    return figures


def _marked(run: ReportRun, case: Case, frame: FrameResult, place: int) -> Marked:
    """A frame of a case, with the case's own boxes told apart."""
    if case.track is None:
        return Marked(frame, detections=case.own_detections(run.videos[case.video], place))
    tracks = [0] * len(frame.gt_boxes) if frame.gt_track_ids is None else frame.gt_track_ids.tolist()
    return Marked(frame, lesions=[i for i, track in enumerate(tracks) if track == case.track])


def _videos_named(run: ReportRun, wanted: set[str]) -> dict[str, VideoResult]:
    """Some videos, read again: boxes of all videos at once would not fit into memory for a large run."""
    if not wanted:
        return {}
    if run.options.annotations is None:
        files = dict(read_manifest(find_manifest(run.path)))
        return {name: read_video(files[name]).video for name in sorted(wanted)}
    videos = load_videos(run.path, run.options.annotations, run.options.patients)
    return {video.video_id: video for video in videos if video.video_id in wanted}


def _finder(run: ReportRun) -> PictureFinder:
    folders = []
    run_folder = RunFolder.containing(run.path)
    record = run_folder.newest_record() if run_folder else None
    if record and record.get("folder"):
        folders.append(Path(record["folder"]))
    if run.options.annotations:
        root = run.options.annotations.resolve().parent
        folders += [root, root / "rawframes"]
    return PictureFinder(folders, run.options.images)


def _timelines_section(runs: Sequence[ReportRun]) -> Html:
    first = runs[0]
    by_name = [{video.video_id: video for video in run.videos} for run in runs]
    failures = [0] * len(first.videos)
    for case in [*first.false, *first.missed]:
        failures[case.video] += 1
    order = sorted(range(len(first.videos)), key=lambda place: -failures[place])
    shown = order[: first.options.num_timelines]
    figures = []
    for place in shown:
        video = first.videos[place]
        having = [
            (run, videos[video.video_id]) for run, videos in zip(runs, by_name, strict=True) if video.video_id in videos
        ]
        drawn = timeline(
            [v for _, v in having], [run.name for run, _ in having], [run.point.threshold for run, _ in having]
        )
        patient = [f"patient {video.patient}"] if video.patient != video.video_id else []
        facts = [f"{len(video.frame_index)} frames", *patient, *(f"{k} {v}" for k, v in sorted(video.metadata.items()))]
        said = f"{video.video_id}: {', '.join(facts)}"
        figures.append(element("figure", {"class": "timeline"}, element("figcaption", None, said), drawn))
    how = (
        "Scores from 0 to 1 along each video, by frame number: the highest-scoring detection of a frame that hits a lesion, and "
        "the one that hits none. Green is where a lesion is in the picture; the dashed line is the run's score threshold. Videos "
        f"with most false-positive sequences and missed lesions of {first.name} come first."
    )
    if len(order) > len(shown):
        how += f" {len(shown)} of {len(order)} videos are shown, {len(order) - len(shown)} are left out (--timelines)."
    entries = [("lesion", LESION), ("hits a lesion", DETECTION), ("hits none", FALSE_DETECTION)]
    return section("timelines", "Timelines", caption(how), _legend(entries), *figures)


def _all_figures_section(runs: Sequence[ReportRun]) -> Html:
    names = list(runs[0].figures)
    rows: list[Row] = [
        [name, *(value_cell(r.figures.get(name, _NAN), 4 if name.startswith("legacy/") else 2) for r in runs)]
        for name in names
    ]
    reasons = [
        caption(f"Undefined in {run.name}: {format_undefined(why)}.")
        for run in runs
        if (why := why_undefined(run.figures, run.videos))
    ]
    how = caption(
        "Percent; FP: false-positive sequences a minute; delay_s: seconds; legacy: shares in 0..1, as the published code of "
        "UltraDet computes them. ultravid/evaluation/metrics.py states each one. A click on a heading sorts."
    )
    counts = {run.name: count_metrics(run.videos) for run in runs}
    rows += [[name, *(value_cell(counts[r.name][name], 0) for r in runs)] for name in counts[runs[0].name]]
    headers = ["figure", *(run.name for run in runs)]
    return section("all-figures", "All figures", how, *reasons, table(headers, rows, "all-figures-table"))
