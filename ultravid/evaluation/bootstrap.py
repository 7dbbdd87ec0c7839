"""Confidence intervals and paired tests of the metrics by a bootstrap over patients.

A draw takes as many patients as there are, with replacement, and with each patient all of his or her videos (Efron and
Tibshirani, "An introduction to the bootstrap", 1993). Patients are the unit, because the frames of a video and the videos of a
patient are not independent. An interval thus covers the choice of patients, not of the training seed.

Below two patients there is nothing to draw: every value is nan. `patient_notes` says what else a reader must know of the patients.

A draw changes how often a detection counts, not which lesion box it hits: it is a weight per patient, and all draws are
computed at once. If a patient is drawn twice, the copies of a detection are adjacent in the order of scores.

Legend: ``D`` draws, ``P`` patients, ``V`` videos, ``N`` detections by falling score, ``Q`` of them that reach IoU 0.5,
``K`` true positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.patients import (
    describe_unknown_patients,
    num_patients,
    num_unknown_patients,
    patient_identities,
)
from ultravid.evaluation.frame_ap import COCO_IOUS, DetectionPool, lesions_hit, match_detections
from ultravid.evaluation.lesion_metrics import lesion_tracks
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.video_metrics import false_sequences_at

__all__ = [
    "BOOTSTRAP_METRICS",
    "ENOUGH_PATIENTS",
    "Interval",
    "bootstrap_metrics",
    "draw_patients",
    "notes_on_unknown_patients",
    "paired_p_value",
    "patient_notes",
    "percentile_interval",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEVELS = (70, 80, 90)
_CELLS_AT_ONCE = 2_000_000
_LEAST_DEFINED = 0.95

ENOUGH_PATIENTS = 10
"""With fewer, a percentile interval covers clearly less than it says: for the mean of ten normal values 90% instead of 95%."""

BOOTSTRAP_METRICS = (
    *("AP50", "AP75", "mAP"),
    *(f"Pr{level}" for level in _LEVELS),
    *(f"FP{level}" for level in _LEVELS),
    *(f"FP/image@R{level}" for level in _LEVELS),
    *("R@16", "AR@16", "lesion/sensitivity_any@R80", "lesion/sensitivity_half@R80"),
)


@dataclass(frozen=True)
class Interval:
    """A percentile interval of a metric.

    Attributes:
        low: lower bound; nan if the metric is undefined in more than 5% of the draws.
        high: upper bound; nan alike.
        defined: fraction of the draws in which the metric is defined.
    """

    low: float
    high: float
    defined: float


def draw_patients(num_patients: int, num_draws: int, seed: int) -> IntArray:
    """``(D, P)`` how often each draw takes each patient; draw ``i`` depends on (seed, i, P) only, not on the number of draws."""
    share = np.full(num_patients, 1 / num_patients)
    return np.random.default_rng(seed).multinomial(num_patients, share, size=num_draws)


def percentile_interval(values: FloatArray, coverage: float = 0.95) -> Interval:
    """The central ``coverage`` of the values of ``(D,)`` draws; draws of nan are left out.

    A metric is not undefined at random but when a model is bad (a recall is not reached), so leaving out draws makes the
    interval too good: if more than 5% are nan, there is no interval.
    """
    defined = values[~np.isnan(values)]
    share = len(defined) / max(len(values), 1)
    if share < _LEAST_DEFINED:
        return Interval(float("nan"), float("nan"), share)
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(float(low), float(high), share)


def paired_p_value(differences: FloatArray) -> float:
    """Two-sided p-value of ``(D,)`` paired differences: twice the smaller fraction of draws on one side of 0.

    A difference of 0 counts on both sides. One is added to numerator and denominator (Davison and Hinkley, "Bootstrap methods
    and their application", 1997), so p is never 0. nan if the difference is undefined in more than 5% of the draws.
    """
    defined = differences[~np.isnan(differences)]
    if len(defined) < _LEAST_DEFINED * len(differences):
        return float("nan")
    sides = (np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (min(sides) + 1) / (len(defined) + 1))


def patient_notes(videos: Sequence[MatchedVideo]) -> list[str]:
    """What a reader of intervals and p-values must know of the patients that they rest on: one sentence each."""
    number, with_lesions = num_patients(videos), num_patients([v for v in videos if len(v.gt_frame)])
    notes = []
    if number < 2:
        notes.append(
            "There is one patient, so there are no intervals and no p-values: they come from drawing patients."
        )
    elif number < ENOUGH_PATIENTS:
        notes.append(
            f"There are only {number} patients: with fewer than {ENOUGH_PATIENTS}, intervals are too narrow and p-values too small."
        )
    elif 0 < with_lesions < ENOUGH_PATIENTS:
        notes.append(
            f"Only {with_lesions} of the {number} patients {'has' if with_lesions == 1 else 'have'} lesions: with fewer than "
            f"{ENOUGH_PATIENTS}, intervals are too narrow and p-values too small."
        )
    return notes + notes_on_unknown_patients(videos)


def notes_on_unknown_patients(videos: Sequence[MatchedVideo]) -> list[str]:
    """How many videos' patients are not known or guessed: one sentence each."""
    notes = [describe_unknown_patients(num_unknown_patients(videos), len(videos), "with the flag --patients")]
    guessed = sum(v.patient_guessed for v in videos)
    if guessed:
        notes.append(
            f"The patients of {guessed} videos (of {len(videos)}) are as an earlier version stored them, which took them "
            "from the videos' names unless they were stated. State them by the flag --patients, or evaluate again."
        )
    return [note for note in notes if note]


def bootstrap_metrics(videos: Sequence[MatchedVideo], num_draws: int = 2000, seed: int = 0) -> dict[str, FloatArray]:
    """``(D,)`` values of each of `BOOTSTRAP_METRICS` over draws of patients, in the units of `metrics.all_metrics`.

    With the same seed, two runs over the same videos get the same draws, so their differences are paired. All are nan if there
    are fewer than two patients.
    """
    identities = patient_identities(videos)
    patients = {patient: number for number, patient in enumerate(sorted(set(identities)))}
    if len(patients) < 2:
        return {name: np.full(num_draws, np.nan) for name in BOOTSTRAP_METRICS}
    owner = np.array([patients[patient] for patient in identities])
    drawn = draw_patients(len(patients), num_draws, seed)
    prepared = _Prepared(videos, owner, len(patients))
    parts = [_metrics_of_draws(prepared, drawn[begin:end]) for begin, end in _blocks(num_draws, prepared.num_hits)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values |= _sequence_metrics(prepared, drawn, values)
    return {name: values[name] for name in BOOTSTRAP_METRICS}


def _blocks(num_draws: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CELLS_AT_ONCE // max(width, 1))
    for begin in range(0, num_draws, step):
        yield begin, min(begin + step, num_draws)


class _Prepared:
    """What is the same in all draws.

    Attributes:
        owner: ``(N,)`` patient of each detection.
        at: ``(Q,)`` indices of the detections that reach IoU 0.5; they include all true positives of any IoU threshold.
        seen: ``(Q, P)`` number of detections of each patient up to and including each of those.
        matches: for each IoU threshold, ``(K,)`` which of the ``Q`` are true positives.
        num_gt: ``(P,)`` number of lesion boxes of each patient.
        recalled: ``(10, P)`` lesion boxes hit by one of the 16 highest-scoring detections of their frame, by IoU threshold.
    """

    def __init__(self, videos: Sequence[MatchedVideo], owner_of_video: IntArray, num_patients: int) -> None:
        pool = DetectionPool(videos)
        self.videos, self.owner_of_video, self.num_patients = videos, owner_of_video, num_patients
        self.scores = pool.scores
        self.owner = owner_of_video[pool.video]
        self.at = np.flatnonzero(pool.best_iou >= np.float32(COCO_IOUS[0]))
        self.num_hits = len(self.at)
        self.places = [np.flatnonzero(self.owner == p) for p in range(num_patients)]
        self.seen = np.stack([np.searchsorted(places, self.at, side="right") for places in self.places], axis=1)
        self.matches = [np.flatnonzero(match_detections(pool, iou)[self.at]) for iou in COCO_IOUS]
        gt_owner = owner_of_video[pool.gt_video]
        self.num_gt = np.bincount(gt_owner, minlength=num_patients)
        hits = [lesions_hit(pool, 16, iou) for iou in COCO_IOUS]
        self.recalled = np.stack([np.bincount(gt_owner[hit], minlength=num_patients) for hit in hits])
        self.num_detections = np.array([len(places) for places in self.places])


def _metrics_of_draws(prepared: _Prepared, drawn: IntArray) -> dict[str, FloatArray]:
    """AP50 to Pr90, R@16, AR@16, and the score thresholds ``threshold70`` to ``threshold90``, for ``(D, P)`` draws."""
    weights = drawn.astype(np.float64)
    num_gt = weights @ prepared.num_gt
    seen = weights @ prepared.seen.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without a lesion gives nan
        by_iou = [100 * _area(prepared, weights, seen, match) / num_gt for match in prepared.matches]
        recalled = 100 * (weights @ prepared.recalled.T) / num_gt[:, None]
    values = {"AP50": by_iou[0], "AP75": by_iou[5], "mAP": np.mean(by_iou, axis=0)}
    values |= {"R@16": recalled[:, 0], "AR@16": recalled.mean(axis=1)}
    for level in _LEVELS:
        precision, threshold = _at_recall(prepared, drawn, seen, num_gt, level / 100)
        values |= {f"Pr{level}": 100 * precision, f"threshold{level}": threshold}
    return values


def _area(prepared: _Prepared, weights: FloatArray, seen: FloatArray, match: IntArray) -> FloatArray:
    """``(D,)`` areas under the precision envelope (`frame_ap.area_under_envelope`) times the number of lesion boxes."""
    weight = weights[:, prepared.owner[prepared.at[match]]]
    precision = weight.cumsum(axis=1)
    precision /= np.maximum(seen[:, match], 1)  # seen is 0 if no detection up to here is drawn; nothing is found then
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.einsum("dk,dk->d", envelope, weight)


def _at_recall(
    prepared: _Prepared, drawn: IntArray, seen: FloatArray, num_gt: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    """``(D,)`` precision and score at a recall, as `frame_ap.precision_at_recall` defines them; nan if it is not reached.

    Both are interpolated between the last detection of the draw with a recall of at most the level, and the next one. The next
    one is a true positive, because the recall rises there: copy number ``copies`` (from 0) of true positive ``k``.
    """
    draws, match = np.arange(len(drawn)), prepared.matches[0]
    places = prepared.at[match]
    weight = drawn[:, prepared.owner[places]]
    found = weight.cumsum(axis=1)
    precision, score = np.full(len(drawn), np.nan), np.full(len(drawn), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = (found / num_gt[:, None] <= level).sum(axis=1)
    total = found[:, -1] if len(match) else np.zeros(len(drawn), np.int64)
    ok = (num_gt > 0) & (total >= level * num_gt * (1 - 1e-12))
    inside = ok & (reached < len(match))
    k, d = reached[inside], draws[inside]
    before = found[d, k] - weight[d, k]
    copies = np.floor(level * num_gt[d] * (1 + 1e-12) - before)
    hits, shown = before + copies, seen[d, match[k]] - weight[d, k] + copies
    last = np.where(copies > 0, places[k], _last_drawn(prepared, drawn[d], places[k]))
    share = (level * num_gt[d] - hits).clip(0, 1)  # position between the two recalls, which are one lesion box apart
    next_precision = (hits + 1) / (shown + 1)
    own = np.where(shown > 0, hits / np.maximum(shown, 1), next_precision)
    precision[d] = own + share * (next_precision - own)
    next_score = prepared.scores[places[k]].astype(np.float64)
    own_score = np.where(last >= 0, prepared.scores[last], next_score)
    score[d] = own_score + share * (next_score - own_score)
    d = draws[ok & (reached == len(match))]  # the highest recall equals the level: take the last detection
    if len(d) and len(match):
        precision[d] = total[d] / (drawn[d] @ prepared.num_detections)
        score[d] = prepared.scores[_last_drawn(prepared, drawn[d], np.full(len(d), len(prepared.owner)))]
    return precision, score


def _last_drawn(prepared: _Prepared, drawn: IntArray, before: IntArray) -> IntArray:
    """``(D,)`` index of the last detection of a drawn patient before a given index; -1 if there is none."""
    last = np.full(len(before), -1)
    for p, places in enumerate(prepared.places):
        number = np.searchsorted(places, before)
        place = np.append(places, -1)[number - 1]  # if number is 0, the -1 at the end
        last = np.where(drawn[:, p] > 0, np.maximum(last, place), last)
    return last


def _sequence_metrics(prepared: _Prepared, drawn: IntArray, pooled: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """FP70 to FP90, FP/image@R70 to R90 and the lesion sensitivities, at the score thresholds of each draw."""
    levels = np.stack([pooled[f"threshold{level}"] for level in _LEVELS], axis=1)
    defined = ~np.isnan(levels)
    false, minutes = np.zeros(levels.shape), np.zeros(len(drawn))
    in_images, images = np.zeros(levels.shape), np.zeros(len(drawn))
    for video, patient in zip(prepared.videos, prepared.owner_of_video, strict=True):
        wanted = defined & (drawn[:, patient] > 0)[:, None]
        misses = np.sort(-video.scores[~video.centre_hits])
        in_images += np.searchsorted(misses, -levels.astype(np.float32), side="right") * drawn[:, patient][:, None]
        images += len(video.frame_index) * drawn[:, patient]
        if video.is_still:
            continue
        counts = np.zeros(levels.shape)
        counts[wanted] = false_sequences_at(video, levels[wanted].astype(np.float32))
        false += counts * drawn[:, patient][:, None]
        minutes += video.minutes * drawn[:, patient]
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of stills only has no minute
        rates = np.where(defined & (minutes > 0)[:, None], false / minutes[:, None], np.nan)
        per_image = np.where(defined, in_images / images[:, None], np.nan)
    result = {f"FP{level}": rates[:, i] for i, level in enumerate(_LEVELS)}
    result |= {f"FP/image@R{level}": per_image[:, i] for i, level in enumerate(_LEVELS)}
    tracks = lesion_tracks(prepared.videos)
    weights = drawn[:, prepared.owner_of_video[[t.video for t in tracks]]] if tracks else np.zeros((len(drawn), 0))
    at_80 = levels[:, 1]
    measures: dict[str, Callable[[int], float]] = {
        "any": lambda i: tracks[i].found_score(),
        "half": lambda i: tracks[i].found_score(share=0.5),
    }
    for name, score_of in measures.items():
        found = np.array([score_of(i) for i in range(len(tracks))])[None] >= at_80[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (found * weights).sum(axis=1) / weights.sum(axis=1)
        result[f"lesion/sensitivity_{name}@R80"] = np.where(np.isnan(at_80), np.nan, 100 * share)
    return result
