"""The runs that a report shows, and everything that is computed of a run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.bootstrap import bootstrap_metrics
from ultravid.evaluation.failures import Failure, false_sequences, missed_lesions
from ultravid.evaluation.frame_ap import DetectionPool
from ultravid.evaluation.metrics import all_metrics, assumed_rate_note
from ultravid.evaluation.report.curves import OperatingPoint, operating_point
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.runs import check_metrics, check_same_videos, in_order_of, load_run
from ultravid.utils.errors import UserError

__all__ = ["MOST_COLUMNS", "ReportOptions", "ReportRun", "load_report_runs", "notes_of_runs", "strata_fields"]

_STRATA = ("device", "organ", "hospital")

MOST_COLUMNS = 3
"""With more runs, runs are the rows of a table: as columns they would not fit on a screen."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report contains.

    Attributes:
        annotations: COCO-VID file; needed for runs that are COCO results.
        patients: a rule for patients, or a table of them (`ultravid.evaluation.runs.load_videos`).
        images: folder that holds the frames' image files now, if they were moved (`ImageFinder`).
        allow_burned_in_text: as of `ImageFinder`.
        num_draws: bootstrap draws of patients for the intervals; 0 gives no intervals.
        seed: seed of the draws.
        score_threshold: score threshold at which failures are shown; None: the threshold at recall 0.8.
        num_strips: most strips of each kind per run.
        num_timelines: most films with a timeline, and most stills.
        command: the command line that makes this report, printed in it.
    """

    annotations: str | Path | None = None
    patients: str | Path | Mapping[str, str] | None = None
    images: Path | None = None
    num_draws: int = 2000
    seed: int = 0
    score_threshold: float | None = None
    num_strips: int = 8
    num_timelines: int = 40
    command: str = ""
    allow_burned_in_text: bool = False


@dataclass(frozen=True, eq=False)
class ReportRun:
    """A run, and what is computed of it once.

    Attributes:
        name: unique among the runs of the report.
        path: path of its predictions, as the user gave it.
        videos: its videos; in the order of the first run's if both runs have the same videos.
        truth: hash of each video's frames and ground truth, by video id (`load_run`).
        options: the options of the report.
        pictures: how many images were to be shown so far ("all"), are "missing" or "hidden" (`strips.strip`).
    """

    name: str
    path: Path
    videos: Sequence[MatchedVideo]
    truth: Mapping[str, str]
    options: ReportOptions
    pictures: Counter[str] = field(default_factory=Counter)

    @cached_property
    def pool(self) -> DetectionPool:
        """All detections of the run."""
        return DetectionPool(self.videos)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`all_metrics` of the run."""
        return all_metrics(self.videos)

    def assumed_rate_note(self, names: Iterable[str] | None = None) -> str:
        """`metrics.assumed_rate_note` of these metrics, or of all; "" if there is nothing to note."""
        return assumed_rate_note({n: self.metrics[n] for n in (self.metrics if names is None else names)}, self.videos)

    @cached_property
    def draws(self) -> dict[str, NDArray[np.float64]]:
        """`bootstrap_metrics` of the run; empty if the report has no intervals."""
        number = self.options.num_draws
        return bootstrap_metrics(self.videos, number, self.options.seed) if number else {}

    @cached_property
    def point(self) -> OperatingPoint:
        """The score threshold at which its failures are shown."""
        return operating_point(self.pool, self.options.score_threshold)

    @cached_property
    def false_positives(self) -> list[Failure]:
        """Its false-positive sequences at that threshold."""
        return false_sequences(self.videos, self.point.threshold)

    @cached_property
    def missed(self) -> list[Failure]:
        """The lesions that it misses at that threshold."""
        return missed_lesions(self.videos, self.point.threshold)


def notes_of_runs(runs: Sequence[ReportRun], note_of: Callable[[ReportRun], str]) -> list[tuple[str, str]]:
    """(names of the runs, what is noted of them), once where it is the same of several; without those of which nothing is."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if note := note_of(run):
            names.setdefault(note, []).append(run.name)
    return [(", ".join(of), note) for note, of in names.items()]


def load_report_runs(paths: Sequence[Path], options: ReportOptions) -> tuple[list[ReportRun], str]:
    """Read the runs of a report.

    Returns:
        the runs; and the reason why a later run can't be compared with the first, empty if all can.

    Raises:
        UserError: a run can't be read, or its predictions or metrics are not those that its record describes.
    """
    loaded = [load_run(path, options.annotations, options.patients) for path in paths]
    for path, (videos, _) in zip(paths, loaded, strict=True):
        check_metrics(path, videos, options.annotations)
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
    """The last parts of each path that make it unique; with letters A, B, ... before them if two paths are equal."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        return [f"{chr(ord('A') + i)}: {path.name}" for i, path in enumerate(resolved)]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def strata_fields(runs: Sequence[ReportRun]) -> list[str]:
    """The fields by which the report stratifies: device, organ and hospital if some video has them, and lesion size."""
    known = {field for run in runs for video in run.videos for field in video.metadata}
    return [*(field for field in _STRATA if field in known), "size"]
