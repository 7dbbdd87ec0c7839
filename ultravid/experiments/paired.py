"""Compares two settings by a bootstrap over patients, paired between the settings.

Each draw takes patients with replacement, the same ones for every setting. A setting's value in a draw is computed for each of its repetitions
(as seeds) from the detections of all folds together, and averaged over the repetitions.

Legend: ``D`` draws.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.patients import num_patients
from ultravid.evaluation.bootstrap import (
    BOOTSTRAP_METRICS,
    bootstrap_metrics,
    paired_p_value,
    patient_notes,
    percentile_interval,
)
from ultravid.evaluation.metrics import all_metrics
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.runs import check_metrics, check_same_videos, in_order_of, load_run
from ultravid.experiments.grouping import Grouping, Setting
from ultravid.experiments.run_results import RunResult, canonical, last_step
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted

__all__ = ["Comparison", "Difference", "compare_settings", "holm"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A metric of two settings.

    Attributes:
        setting: the second one.
        metric: name of the metric.
        reference: its value in the first setting.
        value: its value in the second one.
        low: lower end of the 95% interval of the difference; nan if it is undefined.
        high: upper end, alike.
        p: two-sided p-value of no difference.
        p_holm: the same, corrected for the number of settings that are compared (Holm, 1979).
    """

    setting: Setting
    metric: str
    reference: float
    value: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan

    @property
    def difference(self) -> float:
        """The second setting's value less the first one's."""
        return self.value - self.reference


@dataclass(frozen=True, eq=False)
class Comparison:
    """Settings compared with one of them.

    Attributes:
        reference: the one.
        differences: the differences of the others, by setting and metric.
        notes: how they were computed and what is missing, a sentence each.
    """

    reference: Setting | None = None
    differences: Sequence[Difference] = ()
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, eq=False)
class _Sample:
    """A setting's values.

    Attributes:
        values: each metric, averaged over repetitions.
        draws: ``(D,)`` each metric in each draw, alike.
        repetitions: what was averaged, as text.
    """

    values: Mapping[str, float]
    draws: Mapping[str, FloatArray]
    repetitions: Sequence[str]


def compare_settings(
    grouping: Grouping,
    reference: Setting | None = None,
    num_draws: int = 2000,
    seed: int = 0,
    patients: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare every setting with one of them, over the same patients.

    Args:
        grouping: the settings.
        reference: the one; None: the first that has results.
        num_draws: draws of patients.
        seed: the seed of the draws.
        patients: whose videos they are, as `ultravid.evaluation.runs.load_videos` takes it.
        progress: is called with the name of each setting before its predictions are read.
    """
    metrics = [name for name in grouping.metrics if name in BOOTSTRAP_METRICS]
    settings = [setting for setting in grouping.settings if setting.results]
    reference = reference or (settings[0] if settings else None)
    if reference is None or len(settings) < 2:
        return Comparison(notes=["There is one setting with results, so nothing is compared."])
    if not metrics:
        return Comparison(
            notes=[
                f"These metrics can't be compared by drawing patients; possible are: {', '.join(BOOTSTRAP_METRICS)}."
            ]
        )
    others = [s for s in settings if s is not reference and s.data == reference.data]
    reader = _Reader(grouping, [reference, *others], num_draws, seed, patients)
    progress = progress or (lambda _: None)
    progress(reference.label)
    try:
        base = reader.sample(reference)
    except UserError as error:
        return Comparison(reference, notes=[f"Nothing is compared with {reference.label}: {error}"])
    rows: list[Difference] = []
    notes: list[str] = []
    averaged = {reference.label: base.repetitions}
    for setting in others:
        progress(setting.label)
        try:
            sample = reader.sample(setting)
        except UserError as error:
            notes.append(f"{setting.label} is not compared: {error}")
            continue
        averaged[setting.label] = sample.repetitions
        rows += [_difference(setting, name, base, sample) for name in metrics]
    rows = [row for row in rows if not (math.isnan(row.reference) and math.isnan(row.value))]
    if nowhere := [name for name in metrics if rows and not any(row.metric == name for row in rows)]:
        notes.append(f"Undefined in all settings, so not compared: {', '.join(nowhere)}.")
    rows = _corrected(rows, metrics)
    return Comparison(reference, rows, [*_how(reader, rows, averaged, num_draws, seed), *notes])


def _difference(setting: Setting, name: str, base: _Sample, sample: _Sample) -> Difference:
    drawn = sample.draws[name] - base.draws[name]
    interval = percentile_interval(drawn)
    values = base.values[name], sample.values[name]
    return Difference(setting, name, *values, interval.low, interval.high, paired_p_value(drawn))


def _corrected(rows: Sequence[Difference], metrics: Sequence[str]) -> list[Difference]:
    corrected: dict[int, float] = {}
    for name in metrics:
        of_metric = [row for row in rows if row.metric == name]
        corrected |= {id(row): p for row, p in zip(of_metric, holm([row.p for row in of_metric]), strict=True)}
    return [dataclasses.replace(row, p_holm=corrected[id(row)]) for row in rows]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979); nan stays nan."""
    order = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[at] = largest
    return corrected


class _Reader:
    """Reads the predictions of settings and draws patients, the same ones for all."""

    def __init__(
        self, grouping: Grouping, settings: Sequence[Setting], num_draws: int, seed: int, patients: str | None
    ) -> None:
        self._folds = [key for key in grouping.over if last_step(key) == "fold"]
        self._repeated = [key for key in grouping.over if key not in self._folds]
        self._num_draws, self._seed, self._patients = num_draws, seed, patients
        of_settings = [{self._fold(run) for run in setting.results} for setting in settings]
        self.every_fold = sorted(set.union(*of_settings))
        self.folds = sorted(set.intersection(*of_settings))
        self.videos: list[MatchedVideo] = []
        self._truth: Mapping[str, str] = {}
        self._first = ""

    def _fold(self, run: RunResult) -> tuple[str, ...]:
        return tuple(canonical(run.settings.get(key)) for key in self._folds)

    def sample(self, setting: Setting) -> _Sample:
        if not self.folds:
            raise UserError("the settings have no fold in common.")
        repetitions: dict[tuple[str, ...], dict[tuple[str, ...], RunResult]] = {}
        for run in setting.results:
            own = tuple(canonical(run.settings.get(key)) for key in self._repeated)
            of_repetition = repetitions.setdefault(own, {})
            if self._fold(run) in of_repetition:
                twice = of_repetition[self._fold(run)].name
                raise UserError(f"{twice} and {run.name} have the same settings.")
            of_repetition[self._fold(run)] = run
        whole = {own: runs for own, runs in repetitions.items() if all(fold in runs for fold in self.folds)}
        if not whole:
            raise UserError("in each of its repetitions a fold is missing.")
        values: list[Mapping[str, float]] = []
        draws: list[Mapping[str, FloatArray]] = []
        for runs in whole.values():
            videos = self._pooled([runs[fold] for fold in self.folds])
            metrics = all_metrics(videos)
            values.append({name: metrics[name] for name in BOOTSTRAP_METRICS})
            draws.append(bootstrap_metrics(videos, self._num_draws, self._seed))
        names = [self._text(own) for own in whole]
        return _Sample(
            {name: float(np.mean([of_one[name] for of_one in values])) for name in BOOTSTRAP_METRICS},
            {name: np.mean([of_one[name] for of_one in draws], axis=0) for name in BOOTSTRAP_METRICS},
            names,
        )

    def _text(self, repetition: Sequence[str]) -> str:
        return " ".join(f"{last_step(key)}={value}" for key, value in zip(self._repeated, repetition, strict=True))

    def _pooled(self, runs: Sequence[RunResult]) -> list[MatchedVideo]:
        """The videos of all folds of one repetition, in the order of the first one that was read."""
        videos: list[MatchedVideo] = []
        truth: dict[str, str] = {}
        for run in runs:
            found, of_run = load_run(run.evaluation.path, patients=self._patients)
            check_metrics(run.evaluation.path, found)
            if twice := sorted(truth.keys() & of_run.keys()):
                raise UserError(f"video {twice[0]!r} is in several folds, so folds can't be pooled.")
            videos += found
            truth |= of_run
        if not self.videos:
            self.videos, self._truth, self._first = videos, truth, runs[0].name
            return videos
        check_same_videos((self._first, self._truth), (runs[0].name, truth))
        return in_order_of(self.videos, videos)


def _how(
    reader: _Reader,
    rows: Sequence[Difference],
    averaged: Mapping[str, Sequence[str]],
    num_draws: int,
    seed: int,
) -> list[str]:
    """How differences, intervals and p-values were computed."""
    folds = ""
    if len(reader.every_fold) > 1:
        listed = ", ".join("/".join(fold) for fold in reader.folds)
        missing = len(reader.every_fold) - len(reader.folds)
        folds = f" from the detections of {'all folds' if not missing else f'folds {listed}, which all settings have,'} together"
        folds += f" ({listed})" if not missing else ""
    numbers = {len(names) for names in averaged.values()}
    repeated = [names for names in averaged.values() if len(names) > 1]
    seeds = ""
    if repeated:
        same = len({tuple(names) for names in averaged.values()}) == 1
        which = "; ".join(averaged[next(iter(averaged))]) if same else "each over those it has"
        seeds = f", then averaged over {counted(max(numbers), 'repetition')} ({which})"
    notes = [
        f"Paired over {counted(num_patients(reader.videos), 'patient')} ({counted(len(reader.videos), 'video')}): each of {num_draws} "
        f"draws (seed {seed}) takes patients with replacement, the same for all settings. A value is computed{folds or ' from the detections of a run'}"
        f"{seeds}, so it can differ from the mean over runs. 95% percentile intervals; patients are paired, repetitions are not."
    ]
    if rows:
        compared = len({id(row.setting) for row in rows})
        notes.append(
            f"{counted(len(rows), 'p-value')}: of {counted(compared, 'setting')} and "
            f"{counted(len({row.metric for row in rows}), 'metric')}. "
            "p (Holm) is corrected for the number of settings, for each metric by itself; not for the number of metrics."
        )
        notes += patient_notes(reader.videos)
    return notes
